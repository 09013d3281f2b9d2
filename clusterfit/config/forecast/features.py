"""Step 1: extract and cluster.

N: images of a partition, D: feature_dim, d: dimensions that k-means sees, K: num_clusters.
"""

from __future__ import annotations

from typing import Final

from clusterfit.config.forecast.centroids import DEVICE_BYTES, FAISS_BYTES, HOST_BYTES
from clusterfit.config.forecast.figures import Figure, StageForecast
from clusterfit.config.forecast.stage import Prospect, forecast_logs
from clusterfit.config.networks import FLOAT_BYTES, read_networks
from clusterfit.config.tree import RunFile

_GIB: Final = 2**30
_INDEX_BYTES: Final = 8
_DISTANCE_BYTES: Final = 4
_PRICE_BYTES: Final = 4
_LISTED_BYTES: Final = 300
"""Of a row in an auction: 32 clusters with their distances, its seat and its bid."""
_FAISS_SCRATCH_BYTES: Final = 1536 * 2**20
"""What faiss sets aside on a GPU of 8 GB or more. Source: faiss, StandardGpuResources."""


def forecast_extract(prospect: Prospect) -> StageForecast:
    """Return what extract will do and need."""
    config, feature_dim = prospect.run.extract, _find_feature_dim(prospect.run)
    number_bytes = 2 if config.dtype == "float16" else 4
    parts, storage = [], []
    for partition, count in prospect.counts.items():
        because = f"{count} images, {config.rows_per_part} a part"
        parts.append(Figure(f"parts of {partition}", -(-count // config.rows_per_part), because))
        path = f"extract/{config.layer}/{partition}"
        if isinstance(feature_dim.value, int):
            row_bytes = feature_dim.value * number_bytes + _INDEX_BYTES
            because = f"{count} rows of {feature_dim.value} {config.dtype} and an index"
            storage.append(Figure(path, count * row_bytes, because))
        else:
            storage.append(Figure(path, None, feature_dim.because))
    num_parts = sum(int(str(figure.value)) for figure in parts)
    world_size = prospect.pods.world_size
    idle = (
        f"{num_parts} parts keep {num_parts} of {world_size} ranks busy: lower extract.rowsPerPart"
    )
    return StageForecast(
        prospect.stage,
        prospect.pods,
        work=(feature_dim, *parts),
        storage=(*storage, forecast_logs(prospect)),
        remarks=(idle,) if num_parts < world_size else (),
    )


def forecast_cluster(prospect: Prospect) -> StageForecast:
    """Return what cluster will do and need."""
    config, dim = prospect.run.cluster, _find_clustered_dim(prospect)
    work = (
        Figure("num_clusters", config.num_clusters, "cluster.numClusters"),
        Figure("num_iterations", config.num_iterations, "cluster.numIterations, at most"),
        dim,
    )
    memory = _forecast_memory(prospect, dim)
    centroids_bytes = _count_centroid_bytes(prospect, dim)
    is_limited = config.max_size_ratio > 0
    prices_bytes = config.num_clusters * _PRICE_BYTES if is_limited else 0
    kept = f"first and last centroids{', prices' if is_limited else ''}"
    storage = [
        Figure(
            "cluster/*.npy",
            None if centroids_bytes is None else 2 * centroids_bytes + prices_bytes,
            dim.because if centroids_bytes is None else kept,
        )
    ]
    for partition, count in prospect.counts.items():
        num_nearest = config.num_nearest if config.num_nearest > 1 else 0
        row_bytes = _INDEX_BYTES * (1 + num_nearest) + _DISTANCE_BYTES
        because = f"{count} assignments and distances"
        storage.append(Figure(f"cluster/{partition}", count * row_bytes, because))
    return StageForecast(
        prospect.stage,
        prospect.pods,
        work=work,
        memory=memory,
        storage=(*storage, forecast_logs(prospect)),
        remarks=tuple(_find_cluster_remarks(prospect, memory)),
    )


def _forecast_memory(prospect: Prospect, dim: Figure) -> tuple[Figure, ...]:
    """Return what each process that fits needs, or each of its GPUs."""
    config, pods = prospect.run.cluster, prospect.pods
    if not isinstance(dim.value, int):
        return (Figure("memory per process", None, dim.because),)
    most = config.max_points_per_centroid * config.num_clusters
    num_rows = min(prospect.counts["train"], most or prospect.counts["train"])
    if config.engine == "faiss":
        return _forecast_faiss_memory(prospect, num_rows, dim.value)
    share = -(-num_rows // pods.world_size)
    number_bytes = DEVICE_BYTES if pods.gpus else DEVICE_BYTES + HOST_BYTES
    listed, lists = 0, ""
    if config.max_size_ratio:
        listed = -(-prospect.counts["train"] // pods.world_size) * _LISTED_BYTES
        lists = f", {_LISTED_BYTES} bytes a row for the auction that limits sizes"
    return (
        Figure(
            "memory per GPU" if pods.gpus else "memory per process",
            share * dim.value * FLOAT_BYTES
            + listed
            + config.num_clusters * dim.value * number_bytes,
            f"{share} rows x {dim.value} x {FLOAT_BYTES} bytes, half of it in bfloat16{lists}, and "
            f"{number_bytes} bytes a number of the centroids; rows that do not fit are read anew "
            "in each iteration",
        ),
    )


def _forecast_faiss_memory(prospect: Prospect, num_rows: int, dim: int) -> tuple[Figure, ...]:
    numbers = prospect.run.cluster.num_clusters * dim
    process = Figure(
        "memory per process",
        num_rows * dim * FLOAT_BYTES + numbers * FAISS_BYTES,
        f"{num_rows} rows x {dim} x {FLOAT_BYTES} bytes, and {FAISS_BYTES} bytes a number of the "
        "centroids",
    )
    if not prospect.pods.gpus:
        return (process,)
    gpu = Figure(
        "memory per GPU",
        numbers * FLOAT_BYTES + _FAISS_SCRATCH_BYTES,
        "centroids and faiss' scratch; rows pass through",
    )
    return (process, gpu)


def _find_cluster_remarks(prospect: Prospect, memory: tuple[Figure, ...]) -> list[str]:
    remarks, pods = [], prospect.pods
    num_clusters, num_samples = prospect.run.cluster.num_clusters, prospect.counts["train"]
    if num_clusters > num_samples:
        remarks.append(
            f"cluster.numClusters is {num_clusters}, more than the {num_samples} images: the stage "
            "would stop"
        )
    needed = memory[0].value if prospect.run.cluster.engine == "faiss" else None
    if isinstance(needed, int) and needed > (pods.memory_gib - pods.shm_gib) * _GIB:
        remarks.append(
            f"k-means needs {needed / _GIB:.1f} GiB, but the pod's {pods.memory_gib:g} GiB include "
            f"{pods.shm_gib:g} GiB of shared memory: raise platform.stages.cluster.memoryGibPerNode"
        )
    return remarks


def _count_centroid_bytes(prospect: Prospect, dim: Figure) -> int | None:
    if not isinstance(dim.value, int):
        return None
    return prospect.run.cluster.num_clusters * dim.value * FLOAT_BYTES


def _find_clustered_dim(prospect: Prospect) -> Figure:
    run = prospect.run
    if run.cluster.pca_dim:
        return Figure("dim", run.cluster.pca_dim, "cluster.pcaDim")
    if run.inputs.features and prospect.known.feature_dim:
        return Figure("dim", prospect.known.feature_dim, f"the features of {run.inputs.features}")
    feature_dim = _find_feature_dim(run)
    return Figure("dim", feature_dim.value, feature_dim.because)


def _find_feature_dim(run: RunFile) -> Figure:
    config = run.extract
    width = read_networks()[config.model].find_width(
        config.layer, config.crop_pixels, is_pooled=config.pooling != "none"
    )
    where = f"{config.layer} of {config.model}"
    if width is None:
        return Figure("feature_dim", None, f"the width of {where} is not on record; extract tells")
    pooling = "flattened" if config.pooling == "none" else f"{config.pooling}-pooled"
    return Figure("feature_dim", width, f"{where}, {pooling}")
