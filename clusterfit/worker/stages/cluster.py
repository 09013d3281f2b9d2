"""Cluster (step 1b): k-means on the features of the train partition, then each image's nearest.

N: images of a partition, n: rows (images that could be read).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from clusterfit.artifacts.files import write_array
from clusterfit.artifacts.layout import TRAIN
from clusterfit.artifacts.manifest import Identity, write_manifest
from clusterfit.artifacts.parts import FeatureTable
from clusterfit.worker.context import Context
from clusterfit.worker.identity import find_features, list_partitions, list_targets
from clusterfit.worker.kmeans.choice import choose_engine
from clusterfit.worker.kmeans.engine import Assigner, Engine
from clusterfit.worker.kmeans.exact import SAMPLED_ROWS
from clusterfit.worker.kmeans.final import SeatAssigner, Seating, seat_rows
from clusterfit.worker.kmeans.fitting import Model, fit_model, open_checkpoint
from clusterfit.worker.kmeans.pulse import StagePulse
from clusterfit.worker.kmeans.ranks import Ranks
from clusterfit.worker.kmeans.results import (
    Share,
    describe,
    join_shares,
    warn_where_wrong,
    write_share,
)
from clusterfit.worker.kmeans.rows import CHUNK_ROWS, Rows, read_evenly
from clusterfit.worker.limits import check_num_clusters
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
    model = fit_model(context, engine, tables[TRAIN], identity, ranks)
    seating = None
    if model.fit.balance is not None:
        seating = _seat(context, tables[TRAIN], model, ranks)
    partitions = {}
    for partition, table in tables.items():
        rows, mine = Rows(table, config.cluster, model.projection), _find_rows(table, ranks)
        sample = read_evenly(rows, mine.start, mine.stop, SAMPLED_ROWS)
        if seating is None:
            assigner = engine.build_assigner(model.fit.centroids, sample)
        else:
            assigner = seating.build_assigner(sample, is_seated=partition == TRAIN)
        share = _assign(context, assigner, table, rows, mine, ranks)
        write_share(folder / partition, share, env.rank, context.guard)
        partitions[partition] = describe(share, table, ranks)
        if isinstance(assigner, SeatAssigner):
            partitions[partition] |= {"balance": assigner.describe(ranks)}
    env.barrier()
    if env.is_main_rank:
        warn_where_wrong(context.log, partitions)
        prices = None if seating is None else seating.prices
        _write(context, folder, identity, engine, model, prices, partitions, list(share.arrays))
    env.barrier()


def _seat(context: Context, table: FeatureTable, model: Model, ranks: Ranks) -> Seating:
    """Return a seat for each image of this rank's share that could be read."""
    config, env = context.config.cluster, context.env
    return seat_rows(
        Rows(table, config, model.projection),
        _find_rows(table, ranks),
        model.fit,
        config.max_size_ratio,
        env.device,
        ranks,
        StagePulse(env, context.log),
    )


def _find_rows(table: FeatureTable, ranks: Ranks) -> range:
    """Return the rows of a partition that are images of this rank's share."""
    start, stop = np.searchsorted(table.sample_indices, ranks.share(table.num_samples))
    return range(int(start), int(stop))


def _assign(
    context: Context,
    assigner: Assigner,
    table: FeatureTable,
    rows: Rows,
    mine: range,
    ranks: Ranks,
) -> Share:
    """Return the clusters of this rank's share of a partition's images, which rows `mine` are."""
    config = context.config.cluster
    first_image, last_image = ranks.share(table.num_samples)
    share = Share.empty(last_image - first_image, config.num_clusters, config.num_nearest)
    with StagePulse(context.env, context.log).loop("assignment", len(mine)) as beat:
        for first in mine[::CHUNK_ROWS]:
            beat(first - mine.start)
            chunk = rows.read(first, min(first + CHUNK_ROWS, mine.stop))
            places = table.sample_indices[first : first + len(chunk)] - first_image
            share.include(places, assigner.assign(chunk, config.num_nearest))
    return share


def _write(
    context: Context,
    folder: Path,
    identity: Identity,
    engine: Engine,
    model: Model,
    prices: np.ndarray | None,
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
    if prices is not None:
        arrays["prices.npy"] = prices
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
    open_checkpoint(context, identity).remove()
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
