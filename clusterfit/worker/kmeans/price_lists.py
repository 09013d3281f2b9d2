"""What rows know of clusters in an auction: the few that were cheapest when they last looked.

K: num_clusters, n: rows of this rank, m: some of them, T: clusters listed for a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

import torch

from clusterfit.worker.kmeans.pulse import Pulse
from clusterfit.worker.kmeans.ranks import Ranks

NUM_LISTED: Final = 32
"""T; 8 bytes each. The lists of rows whose clusters have all become dear are made anew."""

_BLOCK_ROWS: Final = 1 << 16
"""Rows that look at prices at a time."""


class Lister(Protocol):
    """Who knows how far this rank's rows are from the centroids."""

    def list_cheapest(
        self, prices: torch.Tensor, wanted: torch.Tensor, num_listed: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield of the rows that are wanted, (n,) bool, so many clusters each.

        Those at which squared distance plus price, (K,) float32, is least: (m,) places of rows,
        (m, T) int32 columns, (m, T) float32 squared distances.
        """


class PriceLists:
    """The lists of all rows of a rank."""

    def __init__(self, lister: Lister, num_rows: int, prices: torch.Tensor, pulse: Pulse) -> None:
        """Have nothing listed yet for so many rows of this rank, and as many clusters as prices."""
        self._pulse = pulse
        num_clusters, device = len(prices), prices.device
        self._lister = lister
        self._num_listed = min(NUM_LISTED, num_clusters)
        self._is_complete = self._num_listed == num_clusters
        shape = (num_rows, self._num_listed)
        self.columns = torch.zeros(shape, dtype=torch.int32, device=device)
        """(n, T)."""
        self.distances_sq = torch.zeros(shape, device=device)
        """(n, T)."""
        self.limits = torch.full((num_rows,), -torch.inf, dtype=torch.float64, device=device)
        """(n,): what the clusters that are not listed cost at least."""

    def renew(self, places: torch.Tensor, prices: torch.Tensor) -> None:
        """List anew for the rows at these places, at (K,) float32 prices; all ranks at once."""
        wanted = torch.zeros(len(self.limits), dtype=torch.bool, device=self.limits.device)
        wanted[places] = True
        listed = self._lister.list_cheapest(prices, wanted, self._num_listed)
        with self._pulse.loop() as beat:
            for some, columns, distances_sq in listed:
                beat(len(some))
                self.columns[some] = columns
                self.distances_sq[some] = distances_sq
                costs = distances_sq.double() + prices[columns.long()]
                self.limits[some] = torch.inf if self._is_complete else costs.amax(1)

    def fall(self, most: float) -> None:
        """Note that no price has fallen by more than this."""
        self.limits -= most

    def find_least(self, places: torch.Tensor, prices: torch.Tensor) -> torch.Tensor:
        """Return (m,) float64: the least that a listed cluster costs the rows at these places."""
        least = torch.empty(len(places), dtype=torch.float64, device=places.device)
        for mine, rows in blocks(places):
            costs = self.distances_sq[rows].double() + prices[self.columns[rows].long()]
            least[mine] = costs.amin(1)
        return least

    def measure(self, ranks: Ranks) -> tuple[float, float]:
        """Return the sums over all ranks' rows of the least and the largest listed distance."""
        least, largest = self.distances_sq.aminmax(dim=1)
        sums = torch.stack(
            [least.clamp(min=0).sum(dtype=torch.float64), largest.sum(dtype=torch.float64)]
        )
        ranks.add(sums)
        return float(sums[0]), float(sums[1])


def blocks(places: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield (where they stand, places) of some places at a time, at least once."""
    for start in range(0, max(1, len(places)), _BLOCK_ROWS):
        yield slice(start, start + _BLOCK_ROWS), places[start : start + _BLOCK_ROWS]
