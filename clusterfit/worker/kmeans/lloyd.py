"""Lloyd's iterations over the rows of all ranks, and what becomes of empty clusters.

K: num_clusters, d: dimensions, n: rows of this rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from clusterfit.worker.kmeans.arithmetic import Arithmetic
from clusterfit.worker.kmeans.assignment import Scorer
from clusterfit.worker.kmeans.rank_rows import RankRows
from clusterfit.worker.kmeans.ranks import Ranks
from clusterfit.worker.kmeans.sums import ClusterSums

_SPLIT_FRACTION: Final = 1e-2
"""Of a cluster's root mean square radius: so far its halves move apart before the next pass."""


@dataclass(frozen=True, slots=True)
class Step:
    """One iteration."""

    centroids: torch.Tensor
    """(K, d) float32: the means, empty clusters split off from others."""
    objective: float
    """Sum of squared distances to the centroids before the update."""
    num_changed: int
    """Rows whose assignment differs from the one before."""
    num_empty: int
    """Clusters that no row was nearest to."""


class Lloyd:
    """Assignment and update, one pass over the rows an iteration."""

    def __init__(self, rows: RankRows, arithmetic: Arithmetic, ranks: Ranks, seed: int) -> None:
        """Iterate over these rows; the seed decides in which directions clusters are split."""
        self._rows = rows
        self._arithmetic = arithmetic
        self._ranks = ranks
        self._seed = seed
        self.assignments = torch.full(
            (rows.num_rows,), -1, dtype=torch.int64, device=arithmetic.device
        )

    def recall(self, centroids: torch.Tensor) -> None:
        """Assign each row without an update: what an iteration from these centroids had found."""
        scorer = Scorer(centroids, self._arithmetic)
        for offset, chunk in self._rows.chunks():
            self.assignments[offset : offset + len(chunk)] = scorer.assign(chunk)

    def iterate(self, centroids: torch.Tensor, iteration: int) -> Step:
        """Assign each row to its nearest centroid and return the means."""
        scorer = Scorer(centroids, self._arithmetic)
        totals = ClusterSums.empty(centroids, self._arithmetic.device)
        num_changed = torch.zeros(1, dtype=torch.float64, device=self._arithmetic.device)
        for offset, chunk in self._rows.chunks():
            mine = slice(offset, offset + len(chunk))
            found = scorer.assign(chunk)
            num_changed += (found != self.assignments[mine]).sum()
            self.assignments[mine] = found
            totals.include(chunk, self._rows.norms_sq[mine], found, self._arithmetic)
        totals.reduce(self._ranks)
        self._ranks.add(num_changed)
        objective = totals.compute_objective(centroids)
        means = totals.compute_means(centroids)
        num_empty = int((totals.counts == 0).sum())
        if num_empty:
            generator = np.random.default_rng([self._seed, 2, iteration])
            split_empty_clusters(means, totals, generator)
        return Step(means, objective, int(num_changed), num_empty)


def split_empty_clusters(
    means: torch.Tensor, totals: ClusterSums, generator: np.random.Generator
) -> None:
    """Let each empty cluster share the widest one, in place.

    As in faiss a victim's centroid is doubled and the two are moved apart a little, so that the
    next pass divides its rows. The victim is the cluster with the largest sum of squared distances,
    and each victim counts half afterwards. Clusters of equal rows have none to give: where all are
    such, the empty ones stay empty.
    """
    scatters = totals.compute_scatters().cpu().numpy().copy()
    counts = totals.counts.cpu().numpy().copy()
    for empty in np.flatnonzero(counts == 0):
        victim = int(scatters.argmax())
        radius = float(np.sqrt(scatters[victim] / max(counts[victim], 1)))
        if radius <= 1e-6 * float(means[victim].norm()) or counts[victim] < 2:
            return  # nothing but rounding
        direction = torch.from_numpy(generator.standard_normal(means.shape[1])).float()
        shift = (_SPLIT_FRACTION * radius / direction.norm() * direction).to(means.device)
        means[empty] = means[victim] + shift
        means[victim] -= shift
        scatters[victim] = scatters[empty] = scatters[victim] / 2
        counts[victim] = counts[empty] = counts[victim] / 2
