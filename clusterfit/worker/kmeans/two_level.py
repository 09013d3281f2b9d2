"""Initial centroids in two levels: sqrt(K) coarse cells, then each cell's share of K inside it.

All of it costs about one full pass: a row is compared with sqrt(K) centroids at a time, never with
K. K: num_clusters, G: cells, d: dimensions.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Final

import numpy as np
import torch

from clusterfit.worker.kmeans.arithmetic import Arithmetic
from clusterfit.worker.kmeans.assignment import Scorer
from clusterfit.worker.kmeans.lloyd import Lloyd, split_empty_clusters
from clusterfit.worker.kmeans.pulse import Pulse
from clusterfit.worker.kmeans.rank_rows import RankRows
from clusterfit.worker.kmeans.ranks import Ranks
from clusterfit.worker.kmeans.sums import ClusterSums

COARSE_ITERATIONS: Final = 5
INNER_ITERATIONS: Final = 5

ROWS_PER_CLUSTER: Final = 32
"""Of more rows than these only every second (third, ...) one takes part: an even sample."""

_DRAWN_PER_CLUSTER: Final = 8
"""Rows drawn for each cluster, to begin with inside the cells; most cells have more than enough."""


def find_two_level_centroids(
    all_rows: RankRows,
    num_rows: int,
    num_clusters: int,
    arithmetic: Arithmetic,
    ranks: Ranks,
    pulse: Pulse,
    seed: int,
    most_rows: int,
) -> torch.Tensor:
    """Return (K, d) float32 centroids in the rows' frame.

    `num_rows` are those of all ranks; no rank keeps more than `most_rows` copies of its own.
    """
    step = max(1, num_rows // (ROWS_PER_CLUSTER * num_clusters))
    if not all_rows.is_resident:
        step = max(step, -(-num_rows // (most_rows * ranks.world_size)))
    step = min(step, max(1, num_rows // num_clusters))
    rows = all_rows.thin(step, pulse)
    num_rows = -(-num_rows // step)
    num_cells = max(1, round(math.sqrt(num_clusters)))
    generator = np.random.default_rng([seed, 3])
    num_drawn = min(num_rows, _DRAWN_PER_CLUSTER * num_clusters)
    drawn = torch.from_numpy(generator.choice(num_rows, num_drawn, replace=False))
    coarse = rows.take(drawn[:num_cells], ranks)
    tell = pulse.follow("start", COARSE_ITERATIONS + INNER_ITERATIONS, "iterations")
    lloyd = Lloyd(rows, arithmetic, ranks, pulse, seed)
    for iteration in range(COARSE_ITERATIONS):
        coarse = lloyd.iterate(coarse, iteration).centroids
        tell(iteration + 1)
    cells = lloyd.assignments  # (n,): of the last pass; the inner iterations keep to them
    sizes = torch.bincount(cells, minlength=num_cells)
    ranks.add(sizes)
    drawn_cells = _look_up(rows, cells, drawn, ranks)
    in_sample = np.bincount(drawn_cells, minlength=num_cells)
    shares = allot(sizes.cpu().numpy(), in_sample, num_clusters)  # (G,)
    chosen = np.concatenate(
        [
            drawn.numpy()[np.flatnonzero(drawn_cells == cell)[:share]]
            for cell, share in enumerate(shares)
        ]
    )
    centroids = rows.take(torch.from_numpy(chosen), ranks)
    bounds = np.concatenate([[0], np.cumsum(shares)])
    inner = _InnerLevel(rows, cells, bounds, arithmetic, pulse)
    for iteration in range(INNER_ITERATIONS):
        totals = inner.assign(centroids).reduce(ranks)
        means = totals.compute_means(centroids)
        if bool((totals.counts == 0).any()):
            split_empty_clusters(means, totals, np.random.default_rng([seed, 4, iteration]))
        centroids = means
        tell(COARSE_ITERATIONS + iteration + 1)
    return centroids


def allot(sizes: np.ndarray, most: np.ndarray, num_clusters: int) -> np.ndarray:
    """Return (G,) shares of K in proportion to sizes, none above `most`, in all K."""
    shares = np.zeros(len(sizes), np.int64)
    open_cells = most > 0
    while (left := num_clusters - int(shares.sum())) > 0:
        weights = np.where(open_cells, sizes, 0).astype(np.float64)
        exact = left * weights / weights.sum()
        more = np.floor(exact).astype(np.int64)
        rest = np.argsort(-(exact - more), kind="stable")[: left - int(more.sum())]
        more[rest] += 1
        shares = np.minimum(shares + more, most)
        open_cells = shares < most
    return shares


def _look_up(
    rows: RankRows, cells: torch.Tensor, row_numbers: torch.Tensor, ranks: Ranks
) -> np.ndarray:
    """Return the cells of rows of any rank, on every rank."""
    found = torch.zeros(len(row_numbers), dtype=torch.int64, device=cells.device)
    ours = (row_numbers >= rows.start) & (row_numbers < rows.stop)
    found[ours] = cells[row_numbers[ours] - rows.start]
    ranks.add(found)
    looked_up: np.ndarray = found.cpu().numpy()
    return looked_up


class _InnerLevel:
    """The rows of all cells, each compared with its own cell's centroids only."""

    def __init__(
        self,
        rows: RankRows,
        cells: torch.Tensor,
        bounds: np.ndarray,
        arithmetic: Arithmetic,
        pulse: Pulse,
    ) -> None:
        """Take rows in memory, their (n,) cells, and where each cell's centroids begin and end."""
        self._rows = rows.kept.rows
        self._norms_sq = rows.norms_sq
        self._arithmetic = arithmetic
        self._pulse = pulse
        self._order = torch.argsort(cells, stable=True)
        self._factor = rows.kept.factor[self._order]
        ends = torch.bincount(cells, minlength=len(bounds) - 1).cumsum(0).tolist()
        self._shares = [
            (slice(*mine), slice(*theirs))
            for mine, theirs in zip(pairwise([0, *ends]), pairwise(bounds.tolist()), strict=True)
            if mine[0] < mine[1] and theirs[0] < theirs[1]  # nobody drew one of a few rows
        ]
        self._found = torch.full_like(cells, -1)
        self._totals: ClusterSums | None = None

    def assign(self, centroids: torch.Tensor) -> ClusterSums:
        """Return the sums of this rank's rows, each with the nearest centroid of its cell."""
        if self._totals is None:
            self._totals = ClusterSums.empty(centroids, self._arithmetic.device)
        found = torch.full_like(self._found, -1)
        with self._pulse.loop() as beat:
            for mine, theirs in self._shares:
                beat(mine.start)
                scorer = Scorer(centroids[theirs], self._arithmetic)
                found[self._order[mine]] = scorer.assign(self._factor[mine]) + theirs.start
        self._totals.move(self._rows, self._norms_sq, self._found, found, self._arithmetic)
        self._found = found
        return self._totals
