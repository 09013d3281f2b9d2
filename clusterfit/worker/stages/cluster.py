"""Cluster (step 1b): k-means on the features of the train partition, then each image's nearest.

N: images of a partition, n: rows (images that could be read), K: num_clusters, d: dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clusterfit.artifacts.files import read_array, write_array
from clusterfit.artifacts.layout import TRAIN
from clusterfit.artifacts.manifest import Identity, write_manifest
from clusterfit.artifacts.parts import FeatureTable
from clusterfit.errors import InvalidDataError, TerminatedError
from clusterfit.worker.context import Context
from clusterfit.worker.identity import find_features, list_partitions, list_targets
from clusterfit.worker.kmeans.checkpoint import FitCheckpoint
from clusterfit.worker.kmeans.choice import choose_engine
from clusterfit.worker.kmeans.engine import Engine, Fit
from clusterfit.worker.kmeans.ranks import Ranks
from clusterfit.worker.kmeans.results import Share, describe, join_shares, write_share
from clusterfit.worker.kmeans.rows import (
    CHUNK_ROWS,
    Projection,
    Rows,
    RowSource,
    fit_projection,
    sample,
)
from clusterfit.worker.limits import check_num_clusters
from clusterfit.worker.log import ProgressReporter
from clusterfit.worker.versions import read_versions


def run(context: Context) -> None:
    """Fit, assign each rank's share of every partition, put the shares together on rank 0."""
    config, env = context.config, context.env
    [(folder, identity)] = list_targets(context.assignment, env.world_size)
    tables = {
        partition: FeatureTable(find_features(config, context.run, partition))
        for partition in list_partitions(config)
    }
    check_num_clusters(config, tables[TRAIN].num_rows)
    ranks = Ranks(env.rank, env.world_size)
    engine, reason = choose_engine(config.cluster, env)
    if env.is_main_rank:
        context.log.info("engine", engine=engine.name, reason=reason)
    model = _fit(context, engine, tables[TRAIN], identity, ranks)
    partitions = {}
    for partition, table in tables.items():
        share = _assign(context, engine, table, model, ranks)
        write_share(folder / partition, share, env.rank, context.guard)
        partitions[partition] = describe(share, table, ranks)
    env.barrier()
    if env.is_main_rank:
        _write(context, folder, identity, engine, model, partitions, list(share.arrays))
    env.barrier()


@dataclass(frozen=True, slots=True)
class _Model:
    """What maps an image's features to a cluster."""

    projection: Projection | None
    initial_centroids: np.ndarray
    fit: Fit


def _fit(
    context: Context, engine: Engine, table: FeatureTable, identity: Identity, ranks: Ranks
) -> _Model:
    """Return the model; on every rank the same."""
    config, env = context.config.cluster, context.env
    projection = None
    if config.pca_dim:
        projection = fit_projection(table, config.pca_dim, config.pca_whiten, ranks)
    rows: RowSource = Rows(table, config, projection)
    if config.max_points_per_centroid:
        wanted = config.max_points_per_centroid * config.num_clusters
        rows = sample(rows, wanted, context.config.seed)
    if engine.uses_all_ranks:
        initial, fit = _iterate(context, engine, rows, identity)
        return _Model(projection, initial, fit)
    fitted = _iterate(context, engine, rows, identity) if env.is_main_rank else None
    initial, fit = env.wait_for_object("fitted", fitted)
    return _Model(projection, initial, fit)


def _iterate(
    context: Context, engine: Engine, rows: RowSource, identity: Identity
) -> tuple[np.ndarray, Fit]:
    """Return initial centroids and the fit, going on from a checkpoint where there is one."""
    config, env, log = context.config.cluster, context.env, context.log
    checkpoint = _open_checkpoint(context, identity)
    resumed = checkpoint.read() if env.is_main_rank else None
    if engine.uses_all_ranks:
        resumed = env.broadcast_object(resumed)
    initial: np.ndarray | None = None
    start: Fit | None = None
    if resumed is not None:
        start, initial = resumed
    elif config.init == "given":
        initial = _read_initial_centroids(context, rows)
        start = Fit(initial)
    if env.is_main_rank:
        log.info(
            "clustering",
            num_rows=rows.num_rows,
            dim=rows.dim,
            num_clusters=config.num_clusters,
            num_iterations=config.num_iterations,
        )
        if resumed is not None:
            log.info("resumed", iteration=resumed[0].num_iterations)
    progress = _build_progress(context, start.num_iterations if start else 0)
    is_told = False

    def report(fit: Fit) -> None:
        nonlocal initial, is_told
        if initial is None:
            initial = fit.centroids
        if env.is_main_rank and not is_told:
            is_told = True
            log.info("arithmetic", **engine.describe())
        progress(fit)
        stops = env.agree_to_stop() if engine.uses_all_ranks else env.stop.is_set
        if env.is_main_rank:
            checkpoint.write_when_due(fit, initial, is_stopping=stops)
        if stops:
            raise TerminatedError(
                f"stopped by SIGTERM after iteration {fit.num_iterations}; the next attempt goes on"
            )

    fit = engine.fit(rows, config, context.config.seed, start, report)
    assert initial is not None, "given, resumed or reported"
    return initial, fit


def _open_checkpoint(context: Context, identity: Identity) -> FitCheckpoint:
    path = context.run.stage("cluster") / "checkpoint.safetensors"
    return FitCheckpoint(path, identity.fingerprint, context.guard)


def _build_progress(context: Context, done: int) -> Callable[[Fit], None]:
    """Return what tells of each iteration, on rank 0."""
    if not context.env.is_main_rank:
        return lambda _fit: None
    total = context.config.cluster.num_iterations
    reporter = ProgressReporter(context.log, total, "iterations", done)

    def tell(fit: Fit) -> None:
        if fit.objectives:
            reporter.update(fit.num_iterations, objective=fit.objectives[-1])
        if fit.is_settled and fit.num_iterations < total:
            context.log.info("settled", iteration=fit.num_iterations)

    return tell


def _read_initial_centroids(context: Context, rows: RowSource) -> np.ndarray:
    """Return the (K, d) float32 centroids of cluster.initialCentroids."""
    config = context.config.cluster
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


def _assign(
    context: Context, engine: Engine, table: FeatureTable, model: _Model, ranks: Ranks
) -> Share:
    """Return the clusters of this rank's share of a partition's images."""
    config = context.config.cluster
    rows = Rows(table, config, model.projection)
    first_image, last_image = ranks.share(table.num_samples)
    start, stop = np.searchsorted(table.sample_indices, [first_image, last_image])
    share = Share.empty(last_image - first_image, config.num_clusters, config.num_nearest)
    for first in range(int(start), int(stop), CHUNK_ROWS):
        context.env.stop.check()
        chunk = rows.read(first, min(first + CHUNK_ROWS, int(stop)))
        places = table.sample_indices[first : first + len(chunk)] - first_image
        found = engine.assign(chunk, model.fit.centroids, config.num_nearest)
        share.include(places, found)
    return share


def _write(
    context: Context,
    folder: Path,
    identity: Identity,
    engine: Engine,
    model: _Model,
    partitions: dict[str, Any],
    names: list[str],
) -> None:
    guard = context.guard
    arrays = {
        "initial_centroids.npy": model.initial_centroids,
        "centroids.npy": model.fit.centroids,
    }
    if model.projection is not None:
        arrays["pca_mean.npy"] = model.projection.mean
        arrays["pca_components.npy"] = model.projection.components
    files = list(arrays)
    for name, array in arrays.items():
        write_array(folder / name, array, guard)
    for partition in partitions:
        joined = join_shares(folder / partition, names, context.env.world_size, guard)
        files += [f"{partition}/{name}" for name in joined]
    results = {
        **engine.describe(),
        "seed": context.config.seed,
        "num_clusters": context.config.cluster.num_clusters,
        "dim": model.fit.centroids.shape[1],
        "num_iterations": model.fit.num_iterations,
        "objectives": list(model.fit.objectives),
        "partitions": partitions,
    }
    write_manifest(folder, identity, files, results, read_versions(), guard)
    _open_checkpoint(context, identity).remove()
    train = partitions[TRAIN]
    if train["num_empty"]:
        context.log.warning(
            "empty clusters",
            num_empty=train["num_empty"],
            why="fewer distinct rows than clusters, or several centroids in one place",
        )
    context.log.info(
        "finished",
        folder=folder,
        objective=train["objective"],
        num_empty=train["num_empty"],
        imbalance=train["imbalance"],
    )
