"""The seam between the cluster stage and whoever does the arithmetic.

N: rows, K: num_clusters, d: dimensions that k-means sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from clusterfit.config.sections.clustering import Cluster
from clusterfit.worker.kmeans.pulse import Pulse
from clusterfit.worker.kmeans.rows import RowSource


@dataclass(frozen=True, slots=True)
class Balance:
    """Prices that keep clusters within a limit, after some iterations with them."""

    prices: np.ndarray
    """(K,) float32, 0 or more: a row is in the cluster with the least squared distance + price."""
    objectives: tuple[float, ...] = ()
    """Sum of squared L2 distances within the limit, before each iteration's update."""
    is_settled: bool = False
    """Whether iterations would go no further."""


@dataclass(frozen=True, slots=True)
class Fit:
    """k-means after some iterations: all that is needed to go on."""

    centroids: np.ndarray
    """(K, d) float32."""
    objectives: tuple[float, ...] = ()
    """Sum of squared L2 distances before each iteration's update; their number is the iteration."""
    previous: np.ndarray | None = None
    """(K, d) float32: the centroids before the last iteration, from which follows what changed."""
    anchor: np.ndarray | None = None
    """(K, d) float32: those at which rows were last compared with all of them, where later
    iterations compare each row with a few."""
    is_resting: bool = False
    """Whether these are the means, and the next iteration compares rows with all of them."""
    is_settled: bool = False
    """Whether the engine would go no further, by the stopping rules."""
    rounding_excess: float = 0.0
    """Which part of the objective may have been rounding's, where that was too much: from here on
    rows are float32."""
    balance: Balance | None = None
    """Where sizes are limited and the iterations without a limit have ended."""

    @property
    def num_iterations(self) -> int:
        """Iterations done."""
        return len(self.objectives)


@dataclass(frozen=True, slots=True)
class Assigned:
    """The nearest centroids of some rows."""

    assignments: np.ndarray
    """(n,) int64."""
    distances_sq: np.ndarray
    """(n,) float32 squared L2 distance."""
    nearest: np.ndarray | None = None
    """(n, num_nearest) int64, the nearest first, where more than one is asked for."""
    findings: dict[str, int] = field(default_factory=dict)
    """What was counted on the way, for the manifest; counts of all chunks are added up."""


class Assigner(Protocol):
    """Finds the nearest of some centroids."""

    def assign(self, rows: np.ndarray, num_nearest: int = 1) -> Assigned:
        """Return the nearest centroid, or so many of them, of each of the (n, d) float32 rows."""


class Engine(Protocol):
    """One way to do k-means."""

    name: str
    uses_all_ranks: bool
    """Whether `fit` is called on every rank, or on rank 0 alone."""

    def fit(
        self,
        rows: RowSource,
        config: Cluster,
        seed: int,
        start: Fit | None,
        report: Callable[[Fit], None],
        pulse: Pulse | None = None,
    ) -> Fit:
        """Return the fit after `config.num_iterations`, going on from `start`.

        Without a start the engine finds initial centroids. `report` is called with them (where
        they are new) and after each iteration; what it raises (TerminatedError) ends the fit, and
        so does the pulse, which loops over rows keep.
        """

    def build_assigner(self, centroids: np.ndarray, sample: np.ndarray) -> Assigner:
        """Return what assigns rows to these (K, d) float32 centroids.

        The sample, (m, d) float32, are some of the rows that will come, from all over them: an
        engine that rounds measures on them how far it can be off.
        """

    def describe(self) -> dict[str, Any]:
        """Return what decided how it worked, for the log and the manifest."""
