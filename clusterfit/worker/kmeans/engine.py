"""The seam between the cluster stage and whoever does the arithmetic.

N: rows, K: num_clusters, d: dimensions that k-means sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from clusterfit.config.tree import Cluster
from clusterfit.worker.kmeans.rows import Rows


@dataclass(frozen=True, slots=True)
class Fit:
    """k-means after some iterations: all that is needed to go on."""

    centroids: np.ndarray
    """(K, d) float32."""
    objectives: tuple[float, ...]
    """Sum of squared L2 distances before each iteration's update; their number is the iteration."""

    @property
    def num_iterations(self) -> int:
        """Iterations done."""
        return len(self.objectives)


class Engine(Protocol):
    """One way to do k-means."""

    name: str

    def fit(
        self, rows: Rows, config: Cluster, seed: int, start: Fit, report: Callable[[Fit], None]
    ) -> Fit:
        """Return the fit after `config.num_iterations`, going on from `start`.

        `report` is called after each iteration; what it raises (TerminatedError) ends the fit.
        """

    def assign(self, rows: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return each row's nearest centroid (n,) int64 and squared L2 distance (n,) float32."""
