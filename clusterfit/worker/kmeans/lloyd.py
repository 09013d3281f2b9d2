"""Lloyd's iterations over the rows of all ranks, and what becomes of empty clusters.

K: num_clusters, d: dimensions, n: rows of this rank, T: candidates of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from clusterfit.worker.kmeans.arithmetic import Arithmetic
from clusterfit.worker.kmeans.assignment import Scorer
from clusterfit.worker.kmeans.candidates import Candidates
from clusterfit.worker.kmeans.pulse import Pulse
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

    def __init__(
        self,
        rows: RankRows,
        arithmetic: Arithmetic,
        ranks: Ranks,
        pulse: Pulse,
        seed: int,
        num_candidates: int = 0,
    ) -> None:
        """Iterate over these rows; the seed decides in which directions clusters are split.

        With candidates, iterations may compare each row with so many centroids only.
        """
        self._rows = rows
        self._arithmetic = arithmetic
        self._ranks = ranks
        self._pulse = pulse
        self._seed = seed
        self._candidates = Candidates(rows.num_rows, num_candidates, arithmetic)
        self._totals: ClusterSums | None = None
        self.assignments = torch.full(
            (rows.num_rows,), -1, dtype=torch.int64, device=arithmetic.device
        )

    def recall(self, centroids: torch.Tensor, anchor: torch.Tensor) -> None:
        """Find again what iterations from the anchor and last from these centroids had found."""
        self._assign(centroids, anchor)

    def iterate(self, centroids: torch.Tensor, iteration: int, looks_at_all: bool = True) -> Step:
        """Assign each row to its nearest centroid and return the means.

        Where it does not look at all of them, rows are compared with their candidates, which the
        last iteration that did has listed.
        """
        num_changed = self._assign(centroids, centroids if looks_at_all else None)
        assert self._totals is not None
        totals = self._totals.reduce(self._ranks)
        changed = torch.tensor([float(num_changed)], dtype=torch.float64)
        changed = changed.to(self._arithmetic.device)
        self._ranks.add(changed)
        objective = totals.compute_objective(centroids)
        means = totals.compute_means(centroids)
        num_empty = int((totals.counts == 0).sum())
        if num_empty:
            generator = np.random.default_rng([self._seed, 2, iteration])
            split_empty_clusters(means, totals, generator)
        return Step(means, objective, int(changed), num_empty)

    def _assign(self, centroids: torch.Tensor, anchor: torch.Tensor | None) -> int:
        """Assign this rank's rows and keep their sums up to date; return how many changed."""
        scorer = None if anchor is None else Scorer(anchor, self._arithmetic)
        if self._totals is None:
            self._totals = ClusterSums.empty(centroids, self._arithmetic.device)
        self._candidates.take(centroids)
        num_changed = 0
        with self._pulse.loop() as beat:
            for offset, chunk in self._rows.chunks():
                beat(offset)
                mine = slice(offset, offset + len(chunk))
                before = self.assignments[mine]
                found = self._candidates.assign(chunk, mine, before, scorer)
                num_changed += self._totals.move(
                    chunk.rows, self._rows.norms_sq[mine], before, found, self._arithmetic
                )
                self.assignments[mine] = found
        return num_changed


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
