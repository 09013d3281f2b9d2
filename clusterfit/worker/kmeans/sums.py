"""Sums of rows by cluster, exact, so that neither order nor the number of ranks changes a bit.

Rows lie on a grid (see `clusterfit.worker.kmeans.rank_rows`) whose multiples float64 adds without
rounding: 2^30 rows of a cluster at 22 bits a number. K: num_clusters, d: dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from clusterfit.worker.kmeans.arithmetic import Arithmetic
from clusterfit.worker.kmeans.ranks import Ranks


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

        A row that comes from -1 is new. As sums are exact, they are those of adding all rows anew.
        """
        moved = (before != after).nonzero()[:, 0]
        known = moved[before[moved] >= 0]
        self.include(rows, norms_sq, before, arithmetic, known, sign=-1)
        self.include(rows, norms_sq, after, arithmetic, moved)
        return len(moved)

    def clone(self) -> ClusterSums:
        """Return a copy."""
        return ClusterSums(self.sums.clone(), self.counts.clone(), self.norms_sq.clone())

    def reduce(self, ranks: Ranks) -> None:
        """Add up what all ranks have included."""
        ranks.add(self.sums, self.counts, self.norms_sq)

    def compute_objective(self, centroids: torch.Tensor) -> float:
        """Return the sum of squared distances of all included rows to (K, d) centroids."""
        given = centroids.double()
        cross = (given * self.sums).sum(1)
        own = self.counts * given.square().sum(1)
        return max(0.0, float((self.norms_sq - 2 * cross + own).sum()))

    def compute_means(self, previous: torch.Tensor) -> torch.Tensor:
        """Return (K, d) float32 means; an empty cluster keeps its previous centroid."""
        means = (self.sums / self.counts.clamp(min=1)[:, None]).float()
        return torch.where(self.counts[:, None] > 0, means, previous)

    def compute_scatters(self) -> torch.Tensor:
        """Return (K,) float64: each cluster's sum of squared distances to its mean."""
        about_mean = self.sums.square().sum(1) / self.counts.clamp(min=1)
        return (self.norms_sq - about_mean).clamp(min=0)
