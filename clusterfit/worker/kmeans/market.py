"""Where an auction stands: what clusters ask, who has a seat in them, and what each bid for it.

N: rows of all ranks, n: rows of this rank, K: num_clusters, T: clusters listed for a row.
"""

from __future__ import annotations

from typing import Final

import torch

from clusterfit.worker.kmeans.price_lists import PriceLists
from clusterfit.worker.kmeans.ranks import Ranks

NOBODY: Final = -1

_TRUSTED_UNITS: Final = 64
"""Of lists that are not made anew before the end of a step."""

_MOST: Final = 1 << 40
"""Units that a bid rises by at most: of rows that know no second choice."""


class Market:
    """One rank's view: prices are the same on all, seats are those of its own rows."""

    def __init__(
        self,
        lists: PriceLists,
        first_row: int,
        num_rows: int,
        seats: torch.Tensor,
        prices: torch.Tensor,
        unit: float,
        ranks: Ranks,
    ) -> None:
        """Begin with nobody seated; prices are multiples of `unit`. See `hold_auction`."""
        num_own, device = len(lists.limits), prices.device
        self.lists = lists
        self.num_rows = num_rows
        self.seats = seats
        self.unit = unit
        self.ranks = ranks
        self.row_numbers = first_row + torch.arange(num_own, device=device)
        """(n,) int64, of this rank's rows among all."""
        self.levels = (prices.double() / unit).floor().long()
        """(K,) int64: prices in units."""
        self.sizes = torch.zeros_like(seats)
        """(K,) int64: this rank's rows in each cluster."""
        self.held = torch.full((num_own,), NOBODY, dtype=torch.int64, device=device)
        """(n,) int64: the cluster that each row has its seat in."""
        self.wanted = torch.zeros_like(self.held)
        """(n,) int64: the cluster that each row has last bid for."""
        self.bids = torch.zeros_like(self.held)
        """(n,) int64 in units: what each row would pay for its seat."""
        self.own_sq = torch.zeros(num_own, dtype=torch.float64, device=device)
        """(n,): the squared distance to the cluster that is held or bid for."""
        self.num_rounds = 0

    @property
    def prices(self) -> torch.Tensor:
        """(K,) float64."""
        return self.levels.double() * self.unit

    def find_trust(self, step: int) -> float:
        """Return the squared distance above their limits up to which lists are taken to be enough.

        A row would save no more by a cluster that it has not listed: a step at most or, where steps
        are small, so little that making lists anew can wait for the end.
        """
        return max(step, _TRUSTED_UNITS) * self.unit

    def sit(self, rows: torch.Tensor, clusters: torch.Tensor) -> None:
        """Give (m,) rows, seated or not, seats in (m,) clusters that they have listed."""
        seated = self.held[rows]
        self.sizes += self.count(clusters) - self.count(seated[seated != NOBODY])
        self.held[rows] = clusters
        is_there = self.lists.columns[rows] == clusters[:, None]
        listed = torch.where(is_there, self.lists.distances_sq[rows], torch.inf)
        self.own_sq[rows] = listed.amin(1).double()

    def rise(self, clusters: torch.Tensor, gains: torch.Tensor, step: int) -> torch.Tensor:
        """Return (m,) bids in units for clusters that are better by so much than any other."""
        return self.levels[clusters] + self.measure(gains) + step

    def measure(self, gains: torch.Tensor) -> torch.Tensor:
        """Return squared distances in whole units, int64, at least 0 and not more than are many."""
        return (gains / self.unit).clamp(0, _MOST).long()

    def number(self, clusters: torch.Tensor) -> torch.Tensor:
        """Return (K,) int64: the place of each cluster among those given, -1 for all others."""
        numbers = torch.full_like(self.levels, -1)
        numbers[clusters] = torch.arange(len(clusters), device=clusters.device)
        return numbers

    def count(self, clusters: torch.Tensor) -> torch.Tensor:
        """Return (K,) int64: how often each cluster occurs."""
        return torch.bincount(clusters, minlength=len(self.levels))
