"""The peers, each as its own documentation has it used, on all rows and without early stopping.

Their libraries are imported inside, so that no process holds two thread pools.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from benchmarks.programs import Inputs, Outcome

_ALL_POINTS: Final = 2**31 - 1
_CHUNK_ROWS: Final = 4096


def faiss_kmeans(inputs: Inputs, options: Mapping[str, Any]) -> Outcome:
    """Fit with faiss.Kmeans from the given centroids."""
    import faiss

    num_clusters, dim = inputs.centroids.shape
    kmeans = faiss.Kmeans(
        dim, num_clusters, seed=inputs.seed, **_all_points(num_clusters), **options
    )
    kmeans.train(inputs.rows, init_centroids=inputs.centroids)
    return Outcome(kmeans.centroids, _read_faiss_trace(kmeans))


def faiss_super_kmeans(inputs: Inputs, options: Mapping[str, Any]) -> Outcome:
    """Fit with faiss.SuperKmeans, which draws its own start."""
    import faiss

    num_clusters, dim = inputs.centroids.shape
    kmeans = faiss.SuperKmeans(  # type: ignore[attr-defined]
        dim, num_clusters, seed=inputs.seed + 1, **_all_points(num_clusters), **options
    )
    kmeans.train(inputs.rows)
    return Outcome(kmeans.centroids, _read_faiss_trace(kmeans))


def faiss_two_level(inputs: Inputs, options: Mapping[str, Any]) -> Outcome:
    """Fit with faiss.contrib's two levels, then full iterations of faiss.Kmeans."""
    import faiss
    from faiss.contrib.clustering import two_level_clustering

    num_clusters, dim = inputs.centroids.shape
    centroids, _ = two_level_clustering(  # type: ignore[no-untyped-call]
        inputs.rows,
        round(num_clusters**0.5),
        num_clusters,
        clustering_niter=options["coarse_iterations"],  # the fine level has faiss' own 25
        min_points_per_centroid=1,
        seed=inputs.seed + 1,
    )
    if options["full_iterations"]:
        kmeans = faiss.Kmeans(
            dim, num_clusters, niter=options["full_iterations"], **_all_points(num_clusters)
        )
        kmeans.train(inputs.rows, init_centroids=centroids)
        centroids = kmeans.centroids
    return Outcome(centroids)


def faiss_flat(inputs: Inputs, options: Mapping[str, Any]) -> Outcome:  # noqa: ARG001
    """Search each row's nearest centroid with faiss.IndexFlatL2."""
    import faiss

    index: Any = faiss.IndexFlatL2(inputs.centroids.shape[1])
    index.add(inputs.centroids)
    _, nearest = index.search(inputs.rows, 1)
    return Outcome(nearest[:, 0])


def super_kmeans(inputs: Inputs, options: Mapping[str, Any]) -> Outcome:
    """Fit with the package superkmeans, flat or hierarchical, on all rows."""
    from superkmeans import SuperKMeans

    num_clusters, dim = inputs.centroids.shape
    kmeans = SuperKMeans(
        num_clusters,
        dim,
        n_threads=inputs.num_threads,
        seed=inputs.seed + 1,
        sampling_fraction=1.0,
        max_points_per_cluster=_ALL_POINTS // num_clusters,
        early_termination=False,
        **options,
    )
    return Outcome(np.asarray(kmeans.train(inputs.rows)))


def super_kmeans_assign(inputs: Inputs, options: Mapping[str, Any]) -> Outcome:  # noqa: ARG001
    """Assign exactly with the package superkmeans."""
    from superkmeans import SuperKMeans

    kmeans = SuperKMeans(*inputs.centroids.shape, n_threads=inputs.num_threads)
    return Outcome(kmeans.assign(inputs.rows, inputs.centroids).astype(np.int64))


def sklearn_kmeans(inputs: Inputs, options: Mapping[str, Any]) -> Outcome:
    """Fit with scikit-learn's Lloyd from the given centroids."""
    from sklearn.cluster import KMeans

    kmeans = KMeans(
        len(inputs.centroids),
        init=inputs.centroids,
        n_init=1,
        algorithm="lloyd",
        tol=0,
        random_state=inputs.seed,
        **options,
    )
    kmeans.fit(inputs.rows)
    return Outcome(kmeans.cluster_centers_)


def sklearn_assign(inputs: Inputs, options: Mapping[str, Any]) -> Outcome:  # noqa: ARG001
    """Assign with scikit-learn's argmin over pairwise distances, one pass."""
    from sklearn.metrics import pairwise_distances_argmin

    return Outcome(pairwise_distances_argmin(inputs.rows, inputs.centroids))


def torch_assign(inputs: Inputs, options: Mapping[str, Any]) -> Outcome:  # noqa: ARG001
    """Assign in fp32 by torch's GEMM and max, a chunk of rows at a time."""
    import torch

    torch.set_num_threads(inputs.num_threads)
    rows, centroids = torch.from_numpy(inputs.rows), torch.from_numpy(inputs.centroids)
    bias = (centroids * centroids).sum(1) / -2  # (K,)
    nearest = torch.empty(len(rows), dtype=torch.int64)
    for first in range(0, len(rows), _CHUNK_ROWS):
        scores = torch.addmm(bias, rows[first : first + _CHUNK_ROWS], centroids.T)  # (n, K)
        nearest[first : first + _CHUNK_ROWS] = scores.max(1).indices
    return Outcome(nearest.numpy())


def bf16_gemm(inputs: Inputs, options: Mapping[str, Any]) -> Outcome:
    """Multiply rows and centroids in bf16 and drop the products: this machine's own rate.

    Not an assignment. Rows and centroids are rounded once, in the first use, which is not reported.
    """
    import torch

    torch.set_num_threads(inputs.num_threads)
    if not inputs.kept:
        inputs.kept["rows"] = torch.from_numpy(inputs.rows).bfloat16()
        inputs.kept["centroids"] = torch.from_numpy(inputs.centroids).bfloat16()
    rows, centroids = inputs.kept["rows"], inputs.kept["centroids"]
    num_rows = options["chunk_rows"]
    products = torch.empty((num_rows, len(centroids)), dtype=torch.bfloat16)
    for first in range(0, len(rows), num_rows):
        torch.mm(rows[first : first + num_rows], centroids.T, out=products)
    return Outcome(None)


def int8_gemm(inputs: Inputs, options: Mapping[str, Any]) -> Outcome:
    """Multiply whole numbers of 8 bits in the same way: what this machine could reach with them."""
    import torch

    torch.set_num_threads(inputs.num_threads)
    if not inputs.kept:
        for name, numbers in (("rows", inputs.rows), ("centroids", inputs.centroids)):
            scaled = torch.from_numpy(numbers * np.float32(127 / np.abs(numbers).max()))
            inputs.kept[name] = scaled.round_().to(torch.int8)
    rows, centroids = inputs.kept["rows"], inputs.kept["centroids"]
    num_rows = options["chunk_rows"]
    products = torch.empty((num_rows, len(centroids)), dtype=torch.int32)
    for first in range(0, len(rows), num_rows):
        block = rows[first : first + num_rows]
        torch._int_mm(block, centroids.T, out=products[: len(block)])
    return Outcome(None)


def faiss_update(inputs: Inputs, options: Mapping[str, Any]) -> Outcome:  # noqa: ARG001
    """Add rows up by cluster as faiss.contrib.clustering's DatasetAssign does: np.add.at."""
    nearest = _assign_once(inputs)
    sums = np.zeros(inputs.centroids.shape, np.float32)
    np.add.at(sums, nearest, inputs.rows)
    return Outcome(sums)


def torch_update(inputs: Inputs, options: Mapping[str, Any]) -> Outcome:  # noqa: ARG001
    """Add rows up by cluster as faiss' torch variant does: index_add_ in float32."""
    import torch

    torch.set_num_threads(inputs.num_threads)
    nearest = torch.from_numpy(_assign_once(inputs))
    sums = torch.zeros(inputs.centroids.shape)
    sums.index_add_(0, nearest, torch.from_numpy(inputs.rows))
    return Outcome(sums.numpy())


def _assign_once(inputs: Inputs) -> np.ndarray:
    """Return (N,) assignments, found in the warm-up and then kept."""
    if "assignments" not in inputs.kept:
        inputs.kept["assignments"] = torch_assign(inputs, {}).result
    nearest: np.ndarray = inputs.kept["assignments"]
    return nearest


def _all_points(num_clusters: int) -> dict[str, int]:
    """Return what keeps faiss from drawing a sample of the rows."""
    return {
        "max_points_per_centroid": _ALL_POINTS // num_clusters,
        "min_points_per_centroid": 1,
    }


def _read_faiss_trace(kmeans: Any) -> dict[str, Any]:
    """Return the objective before each update and the seconds after it, as faiss tells them."""
    return {
        "trace": [[stats["time"], stats["obj"]] for stats in kmeans.iteration_stats],
    }
