"""Cluster (step 1b): k-means on the train partition's features, then every row's nearest centroid.

N: images of a partition, n: rows (images that could be read), K: num_clusters, d: dimensions.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from clusterfit.artifacts.files import read_array, remove_files, write_array, write_file
from clusterfit.artifacts.layout import TRAIN
from clusterfit.artifacts.manifest import Identity, write_manifest
from clusterfit.artifacts.parts import FeatureTable
from clusterfit.errors import InvalidDataError
from clusterfit.worker.context import Context
from clusterfit.worker.identity import find_features, list_partitions, list_targets
from clusterfit.worker.kmeans.engine import Engine, Fit
from clusterfit.worker.kmeans.faiss_engine import FaissEngine
from clusterfit.worker.kmeans.rows import Projection, Rows, fit_projection
from clusterfit.worker.log import ProgressReporter
from clusterfit.worker.versions import read_versions

CHECKPOINT_SECONDS: Final = 30.0


def run(context: Context) -> None:
    """Fit on rank 0, assign on all ranks, write on rank 0."""
    config, env = context.config, context.env
    [(folder, identity)] = list_targets(context.assignment, env.world_size)
    tables = {
        partition: FeatureTable(find_features(config, context.run, partition))
        for partition in list_partitions(config)
    }
    if config.cluster.num_clusters > tables[TRAIN].num_rows:
        raise InvalidDataError(
            f"cluster.numClusters: got {config.cluster.num_clusters}, want at most the "
            f"{tables[TRAIN].num_rows} images of the train partition"
        )
    fitted = _fit(context, tables[TRAIN], identity) if env.is_main_rank else None
    model = env.wait_for_object("fitted", fitted)
    # While one rank fits, faiss has all cores; when all assign, each has its share.
    engine: Engine = FaissEngine(num_threads=env.threads_per_rank)
    assigned = {}
    for partition, table in tables.items():
        rows = Rows(table, config.cluster, model.projection)
        assigned[partition] = _assign(context, engine, rows, model.fit.centroids)
    if env.is_main_rank:
        _write(context, folder, identity, model, tables, assigned)
    env.barrier()


@dataclass(frozen=True, slots=True)
class _Model:
    """What maps an image's features to a cluster."""

    projection: Projection | None
    initial_centroids: np.ndarray
    fit: Fit


def _fit(context: Context, table: FeatureTable, identity: Identity) -> _Model:
    config, log = context.config.cluster, context.log
    projection = None
    if config.pca_dim:
        projection = fit_projection(table, config.pca_dim, config.pca_whiten)
    rows = Rows(table, config, projection)
    initial = _choose_initial_centroids(context, rows)
    checkpoint = _Checkpoint(context, identity)
    start = checkpoint.read() or Fit(initial, ())
    log.info(
        "clustering",
        engine=FaissEngine.name,
        num_rows=rows.num_rows,
        dim=rows.dim,
        num_clusters=config.num_clusters,
    )
    if start.num_iterations:
        log.info("resumed", iteration=start.num_iterations)
    progress = ProgressReporter(log, config.num_iterations, "iterations", start.num_iterations)

    def report(fit: Fit) -> None:
        progress.update(fit.num_iterations, objective=fit.objectives[-1])
        checkpoint.write_when_due(fit, is_stopping=context.env.stop.is_set)
        context.env.stop.check()

    fit = FaissEngine().fit(rows, config, context.config.seed, start, report)
    return _Model(projection, initial, fit)


def _choose_initial_centroids(context: Context, rows: Rows) -> np.ndarray:
    """Return (K, d) float32: a file's, or K rows drawn by the seed."""
    config = context.config.cluster
    if not config.initial_centroids:
        generator = np.random.default_rng([context.config.seed, 1])
        drawn = generator.choice(rows.num_rows, config.num_clusters, replace=False)
        return rows.take(np.sort(drawn))
    path = context.run.storage_root / config.initial_centroids
    centroids = read_array(path)
    if centroids.shape != (config.num_clusters, rows.dim):
        raise InvalidDataError(
            f"cluster.initialCentroids: {path} is {centroids.shape}, want "
            f"{(config.num_clusters, rows.dim)}"
        )
    if not np.isfinite(centroids).all():
        raise InvalidDataError(f"cluster.initialCentroids: {path} holds values that are not finite")
    return np.array(centroids, np.float32)


class _Checkpoint:
    """Centroids and objectives so far, in one file that is replaced from time to time."""

    def __init__(self, context: Context, identity: Identity) -> None:
        self._path = context.run.stage("cluster") / "checkpoint.safetensors"
        self._fingerprint = identity.fingerprint
        self._guard = context.guard
        self._last = time.monotonic()

    def read(self) -> Fit | None:
        """Return the last checkpoint of this very clustering, if there is one."""
        try:
            tensors = load_file(self._path)
        except (OSError, SafetensorError):
            return None
        if tensors["fingerprint"].tobytes().decode() != self._fingerprint:
            return None
        return Fit(tensors["centroids"], tuple(tensors["objectives"].tolist()))

    def write_when_due(self, fit: Fit, is_stopping: bool) -> None:
        """Write where the last one is old, or where there will be no later one."""
        if not is_stopping and time.monotonic() - self._last < CHECKPOINT_SECONDS:
            return
        tensors = {
            "centroids": fit.centroids,
            "objectives": np.array(fit.objectives, np.float64),
            "fingerprint": np.frombuffer(self._fingerprint.encode(), np.uint8),
        }
        write_file(self._path, save(tensors), self._guard)
        self._last = time.monotonic()

    def remove(self) -> None:
        """Remove it: the clustering has finished."""
        remove_files([self._path])


def _assign(
    context: Context, engine: Engine, rows: Rows, centroids: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (n,) int64 assignments and (n,) float32 distances on rank 0, None elsewhere.

    Each rank assigns its contiguous share; the nearest centroid does not depend on who looks.
    """
    env = context.env
    start = rows.num_rows * env.rank // env.world_size
    stop = rows.num_rows * (env.rank + 1) // env.world_size
    assignments = np.empty(stop - start, np.int64)
    distances_sq = np.empty(stop - start, np.float32)
    for first, chunk in rows.chunks(start, stop):
        env.stop.check()
        end = first - start + len(chunk)
        assignments[first - start : end], distances_sq[first - start : end] = engine.assign(
            chunk, centroids
        )
    shares: list[Any] | None = [None] * env.world_size if env.is_main_rank else None
    dist.gather_object((assignments, distances_sq), shares, dst=0, group=env.control)
    if shares is None:
        return None
    return (
        np.concatenate([share[0] for share in shares]),
        np.concatenate([share[1] for share in shares]),
    )


def _write(
    context: Context,
    folder: Path,
    identity: Identity,
    model: _Model,
    tables: dict[str, FeatureTable],
    assigned: dict[str, tuple[np.ndarray, np.ndarray] | None],
) -> None:
    guard, num_clusters = context.guard, context.config.cluster.num_clusters
    arrays = {
        "initial_centroids.npy": model.initial_centroids,
        "centroids.npy": model.fit.centroids,
    }
    if model.projection is not None:
        arrays["pca_mean.npy"] = model.projection.mean
        arrays["pca_components.npy"] = model.projection.components
    partitions: dict[str, Any] = {}
    for partition, table in tables.items():
        result = assigned[partition]
        assert result is not None, "rank 0 gathers"
        assignments = np.full(table.num_samples, -1, np.int64)  # (N,)
        assignments[table.sample_indices] = result[0]
        distances_sq = np.full(table.num_samples, np.nan, np.float32)  # (N,)
        distances_sq[table.sample_indices] = result[1]
        arrays[f"{partition}/assignments.npy"] = assignments
        arrays[f"{partition}/distances_sq.npy"] = distances_sq
        partitions[partition] = _describe(result[0], result[1], table, num_clusters)
    for name, array in arrays.items():
        write_array(folder / name, array, guard)
    results = {
        "engine": FaissEngine.name,
        "seed": context.config.seed,
        "num_clusters": num_clusters,
        "dim": model.fit.centroids.shape[1],
        "num_iterations": model.fit.num_iterations,
        "objectives": list(model.fit.objectives),
        "partitions": partitions,
    }
    write_manifest(folder, identity, list(arrays), results, read_versions(), guard)
    _Checkpoint(context, identity).remove()
    train = partitions[TRAIN]
    context.log.info(
        "finished",
        folder=folder,
        objective=train["objective"],
        num_empty=train["num_empty"],
        imbalance=train["imbalance"],
    )


def _describe(
    assignments: np.ndarray, distances_sq: np.ndarray, table: FeatureTable, num_clusters: int
) -> dict[str, Any]:
    """Return what is worth knowing of one partition's assignments."""
    sizes = np.bincount(assignments, minlength=num_clusters)  # (K,)
    imbalance = float(num_clusters * (sizes.astype(np.float64) ** 2).sum() / sizes.sum() ** 2)
    return {
        "data_fingerprint": table.data_fingerprint,
        "num_samples": table.num_samples,
        "num_assigned": len(assignments),
        "objective": float(distances_sq.sum(dtype=np.float64)),
        "num_empty": int((sizes == 0).sum()),
        "imbalance": round(imbalance, 4),  # 1: all clusters of one size; as faiss defines it
        "sizes": sizes.tolist(),
    }
