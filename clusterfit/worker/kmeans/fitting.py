"""Fitting k-means to the features of a partition: where it starts, resumes, reports and stops.

K: num_clusters, d: dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from clusterfit.artifacts.files import read_array
from clusterfit.artifacts.manifest import Identity
from clusterfit.artifacts.parts import FeatureTable
from clusterfit.errors import InvalidDataError, TerminatedError
from clusterfit.worker.context import Context
from clusterfit.worker.kmeans.checkpoint import FitCheckpoint
from clusterfit.worker.kmeans.engine import Engine, Fit
from clusterfit.worker.kmeans.pulse import StagePulse
from clusterfit.worker.kmeans.ranks import Ranks
from clusterfit.worker.kmeans.rows import Projection, Rows, RowSource, fit_projection, sample
from clusterfit.worker.log import ProgressReporter


@dataclass(frozen=True, slots=True)
class Model:
    """What maps an image's features to a cluster."""

    projection: Projection | None
    """Onto the principal components that were asked for."""
    initial_centroids: np.ndarray
    """(K, d) float32, where the fit began."""
    fit: Fit


def fit_model(
    context: Context, engine: Engine, table: FeatureTable, identity: Identity, ranks: Ranks
) -> Model:
    """Return the model; on every rank the same."""
    config, env = context.config.cluster, context.env
    projection = None
    if config.pca_dim:
        pulse = StagePulse(env, context.log)
        projection = fit_projection(table, config.pca_dim, config.pca_whiten, ranks, pulse)
    rows: RowSource = Rows(table, config, projection)
    if config.max_points_per_centroid:
        wanted = config.max_points_per_centroid * config.num_clusters
        rows = sample(rows, wanted, context.config.seed)
    if engine.uses_all_ranks:
        initial, fit = _iterate(context, engine, rows, identity)
        return Model(projection, initial, fit)
    fitted = _iterate(context, engine, rows, identity) if env.is_main_rank else None
    initial, fit = env.wait_for_object("fitted", fitted)
    return Model(projection, initial, fit)


def _iterate(
    context: Context, engine: Engine, rows: RowSource, identity: Identity
) -> tuple[np.ndarray, Fit]:
    """Return initial centroids and the fit, going on from a checkpoint where there is one."""
    config, env, log = context.config.cluster, context.env, context.log
    checkpoint = open_checkpoint(context, identity)
    resumed = checkpoint.read(log) if env.is_main_rank else None
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
    told: dict[str, Any] = {}
    latest = start

    def report(fit: Fit) -> None:
        nonlocal initial, told, latest
        latest = fit
        if initial is None:
            initial = fit.centroids
        if env.is_main_rank and engine.describe() != told:
            told = engine.describe()
            log.info("arithmetic", **told)
        progress(fit)
        pulse.check()
        if env.is_main_rank:
            checkpoint.write_when_due(fit, initial)

    pulse = StagePulse(env, log, is_shared=engine.uses_all_ranks)
    try:
        fit = engine.fit(rows, config, context.config.seed, start, report, pulse)
    except TerminatedError as error:
        if latest is None:
            raise
        if env.is_main_rank and initial is not None and latest is not start:
            checkpoint.write(latest, initial)
        raise TerminatedError(
            f"stopped by SIGTERM after iteration {latest.num_iterations}; the next attempt goes on"
        ) from error
    assert initial is not None, "given, resumed or reported"
    return initial, fit


def open_checkpoint(context: Context, identity: Identity) -> FitCheckpoint:
    """Return the checkpoint of a fit; whoever has written the results removes it."""
    path = context.run.stage("cluster") / "checkpoint.bin"
    return FitCheckpoint(path, identity.fingerprint, context.guard)


def _build_progress(context: Context, done: int) -> Callable[[Fit], None]:
    """Return what tells of each iteration, on rank 0."""
    if not context.env.is_main_rank:
        return lambda _fit: None
    total = context.config.cluster.num_iterations
    reporter = ProgressReporter(context.log, total, "iterations", done)

    def tell(fit: Fit) -> None:
        if fit.balance is not None:
            objectives = fit.balance.objectives
            context.log.info("balanced", iteration=len(objectives), objective=objectives[-1])
            return
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
    if centroids.dtype.kind not in "fiu":
        raise InvalidDataError(
            f"cluster.initialCentroids: {path} is {centroids.dtype}, want numbers"
        )
    with np.errstate(over="ignore"):  # told below
        centroids = np.array(centroids, np.float32)
    if not np.isfinite(centroids).all():
        raise InvalidDataError(
            f"cluster.initialCentroids: {path} holds values that are not finite in float32"
        )
    return centroids
