"""The last assignment where sizes are limited: seats for every row of a partition, raw as it is.

K: num_clusters, d: dimensions, n: rows of this rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from clusterfit.worker.kmeans.auction import hold_auction
from clusterfit.worker.kmeans.engine import Assigned, Assigner, Fit
from clusterfit.worker.kmeans.listers import RawLister
from clusterfit.worker.kmeans.pulse import Pulse
from clusterfit.worker.kmeans.ranks import Ranks
from clusterfit.worker.kmeans.row_assigner import RowAssigner
from clusterfit.worker.kmeans.rows import RowSource
from clusterfit.worker.kmeans.seats import allot_seats

_STEPS: Final = (8, 1)
"""Of the auction's bids: it begins at prices that iterations have found."""


@dataclass(frozen=True, slots=True)
class Seating:
    """Who sits where at the end."""

    fit: Fit
    clusters: np.ndarray
    """(n,) int64, of this rank's rows."""
    seats: np.ndarray
    """(K,) int64 that there were."""
    prices: np.ndarray
    """(K,) float32."""
    num_rounds: int
    """Of bids."""
    device: torch.device

    def build_assigner(self, sample: np.ndarray, is_seated: bool) -> Assigner:
        """Return what assigns rows to their seats, or others by the same prices; see `Engine`."""
        assigner = RowAssigner(self.fit.centroids, sample, self.device, self.prices)
        return SeatAssigner(self, assigner) if is_seated else assigner


def seat_rows(
    source: RowSource,
    rows: range,
    fit: Fit,
    max_size_ratio: float,
    device: torch.device,
    ranks: Ranks,
    pulse: Pulse,
) -> Seating:
    """Return a seat for each of this rank's rows of a source, by the fit's centroids."""
    assert fit.balance is not None, "sizes are limited"
    prices = torch.from_numpy(fit.balance.prices).to(device)
    seats = allot_seats(source.num_rows, max_size_ratio, prices)
    outcome = hold_auction(
        RawLister(source, rows, fit.centroids, device),
        rows,
        source.num_rows,
        seats,
        prices,
        ranks,
        pulse,
        _STEPS,
    )
    return Seating(
        fit,
        outcome.held.cpu().numpy(),
        seats.cpu().numpy(),
        outcome.prices.cpu().numpy(),
        outcome.num_rounds,
        device,
    )


class SeatAssigner:
    """Assigns rows that have seats to those; see `Assigner`.

    The cheapest clusters are looked up all the same, which proves how far the seats are from the
    best possible: for any prices no assignment within the limit costs less than all least distances
    + prices together, less the prices of all seats.
    """

    def __init__(self, seating: Seating, assigner: RowAssigner) -> None:
        """Take a seating, whose rows will come in their order, and what knows its prices."""
        self._seating = seating
        self._assigner = assigner
        self._num_done = 0

    def assign(self, rows: np.ndarray, num_nearest: int = 1) -> Assigned:
        """Return the clusters of the next (n, d) float32 rows.

        The nearest are those of least distance + price, after the row's own.
        """
        seats = self._seating.clusters[self._num_done : self._num_done + len(rows)]
        self._num_done += len(rows)
        return self._assigner.assign(rows, num_nearest, seats)

    def describe(self, ranks: Ranks) -> dict[str, Any]:
        """Return what the manifest says of rows that sit in this seating, of all ranks."""
        fit = self._seating.fit
        assert fit.balance is not None, "sizes are limited"
        least = torch.tensor([self._assigner.least_total], dtype=torch.float64)
        ranks.add(least)
        seats, prices = self._seating.seats, self._seating.prices.astype(np.float64)
        return {
            "method": "auction",
            "max_size": int(seats.max()),
            "objective_without": fit.objectives[-1],
            "objectives": list(fit.balance.objectives),
            "least_objective": float(least) - float(seats @ prices),
            "num_rounds": self._seating.num_rounds,
        }
