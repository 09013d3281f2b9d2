"""Sums of rows by cluster, exact, so that neither order nor the number of ranks changes a bit.

Rows lie on a grid (see `clusterfit.worker.kmeans.rank_rows`) whose multiples float64 adds without
rounding: 2^30 rows of a cluster at 22 bits a number. K: num_clusters, d: dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from clusterfit.worker.kmeans.arithmetic import Arithmetic
from clusterfit.worker.kmeans.ranks import Ranks
from clusterfit.worker.kmeans.sizes import choose_sizes


@dataclass(slots=True)
class ClusterSums:
    """What a pass over the rows finds out about each cluster."""

    sums: torch.Tensor
    """(K, d) float64."""
    counts: torch.Tensor
    """(K,) float64 number of rows."""
    norms_sq: torch.Tensor
    """(K,) float64 sum of the rows' squared norms."""

    @classmethod
    def empty(cls, centroids: torch.Tensor, device: torch.device) -> ClusterSums:
        """Return sums of no rows, for (K, d) centroids."""
        num_clusters, dim = centroids.shape
        return cls(
            torch.zeros(num_clusters, dim, dtype=torch.float64, device=device),
            torch.zeros(num_clusters, dtype=torch.float64, device=device),
            torch.zeros(num_clusters, dtype=torch.float64, device=device),
        )

    def include(
        self,
        rows: torch.Tensor,
        norms_sq: torch.Tensor,
        assignments: torch.Tensor,
        arithmetic: Arithmetic,
        places: torch.Tensor | None = None,
        sign: int = 1,
    ) -> None:
        """Add rows with their squared norms to their clusters, or take them away.

        Of (n, d) rows those at `places`; by default all.
        """
        if places is None:
            places = torch.arange(len(rows), device=rows.device)
        clusters = assignments[places]
        order = places[torch.argsort(clusters)]
        arithmetic.kernel.add_rows(self.sums, rows, order, assignments, sign)
        num_clusters = len(self.counts)
        self.counts += sign * torch.bincount(clusters, minlength=num_clusters)
        norms = torch.bincount(clusters, norms_sq[places].double(), num_clusters)
        self.norms_sq += sign * norms

    def move(
        self,
        rows: torch.Tensor,
        norms_sq: torch.Tensor,
        before: torch.Tensor,
        after: torch.Tensor,
        arithmetic: Arithmetic,
    ) -> int:
        """Take rows from the clusters that they leave to those they join; return how many do.

        -1 is no cluster. As sums are exact, they are those of adding all rows anew.
        """
        moved = (before != after).nonzero()[:, 0]
        left, joined = moved[before[moved] >= 0], moved[after[moved] >= 0]
        self.include(rows, norms_sq, before, arithmetic, left, sign=-1)
        self.include(rows, norms_sq, after, arithmetic, joined)
        return len(moved)

    def reduce(self, ranks: Ranks) -> ClusterSums:
        """Return what all ranks have included; these sums stay this rank's."""
        if ranks.world_size == 1:
            return self
        reduced = ClusterSums(self.sums.clone(), self.counts.clone(), self.norms_sq.clone())
        ranks.add(reduced.sums, reduced.counts, reduced.norms_sq)
        return reduced

    def compute_objective(self, centroids: torch.Tensor) -> float:
        """Return the sum of squared distances of all included rows to (K, d) centroids."""
        objective = self.norms_sq.sum()
        for some in self._blocks():
            given = centroids[some].double()
            objective -= 2 * (given * self.sums[some]).sum()
            objective += self.counts[some] @ given.square().sum(1)
        return max(0.0, float(objective))

    def compute_means(self, previous: torch.Tensor) -> torch.Tensor:
        """Return (K, d) float32 means; an empty cluster keeps its previous centroid."""
        means = torch.empty_like(previous)
        counts = self.counts.clamp(min=1)[:, None]
        for some in self._blocks():
            means[some] = self.sums[some] / counts[some]
        empty = self.counts == 0
        means[empty] = previous[empty]
        return means

    def compute_scatters(self) -> torch.Tensor:
        """Return (K,) float64: each cluster's sum of squared distances to its mean."""
        about_mean = torch.cat([self.sums[some].square().sum(1) for some in self._blocks()])
        return (self.norms_sq - about_mean / self.counts.clamp(min=1)).clamp(min=0)

    def _blocks(self) -> Iterator[slice]:
        """Yield clusters whose sums stay in cache while they are worked on."""
        step = max(1, choose_sizes(self.sums.device).elements // self.sums.shape[1])
        for start in range(0, len(self.sums), step):
            yield slice(start, start + step)
