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
    ) -> None:
        """Add (n, d) rows with their squared norms to their clusters."""
        arithmetic.add_rows(self.sums, rows, assignments)
        num_clusters = len(self.counts)
        self.counts += torch.bincount(assignments, minlength=num_clusters)
        self.norms_sq += torch.bincount(assignments, norms_sq.double(), num_clusters)

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
