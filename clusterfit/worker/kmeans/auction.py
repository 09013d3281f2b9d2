"""The auction that shares rows out over clusters of limited size, with one price per cluster.

A row wants the cluster at which its squared distance plus the price is least, and bids for it what
would make its second choice as good, and a step more. A full cluster keeps the highest bids and
asks the least of them from then on; whoever is outbid looks again. When every row has a seat, a
cluster that asks a price and has room left lowers it until rows of others fill the room, or to 0.
At the end each row is within a step or two of the best that prices leave it, and so, for each row,
is the sum of squared distances. Large steps first, then smaller ones from the prices found, take
much less time than small ones alone; and where bids are slow to end, rows are led to free seats
(see `relief`).

Sources: Bertsekas and Castanon, "The auction algorithm for the transportation problem", Annals of
Operations Research 20, 1989; for room that is left, Bertsekas and Castanon, "A forward/reverse
auction algorithm for asymmetric assignment problems", Computational Optimization and Applications
1, 1992. All rows bid at once here. Prices and bids are whole numbers of one unit, and equal bids go
to the lower row: nothing depends on the order of sums.

N: rows of all ranks, n: rows of this rank, K: num_clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch

from clusterfit.worker.kmeans.bidding import raise_prices, release
from clusterfit.worker.kmeans.lowering import lower_prices, sink_prices
from clusterfit.worker.kmeans.market import Market
from clusterfit.worker.kmeans.price_lists import Lister, PriceLists
from clusterfit.worker.kmeans.pulse import Pulse
from clusterfit.worker.kmeans.ranks import Ranks
from clusterfit.worker.kmeans.relief import relieve

_UNIT: Final = 0.01
"""Of a row's mean squared distance: what prices are multiples of. With a last step of one unit the
sum of squared distances came within some 2e-4 of the least possible where that was computed."""

_LEFT_FRACTION: Final = 0.01
"""Of the rows, that may have no seat when a smaller step follows."""

_PATIENCE: Final = 16
"""Rounds in which the rows that wait, or the clusters that ask too much, must be half as many."""

_MAX_TURNS: Final = 3
"""So often rows may find at the end that they were better off elsewhere."""

_LEAST_SCALE: Final = 1e-6
"""Of squared distances: what rounding to float32 leaves of some that are 0."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an auction ended."""

    held: torch.Tensor
    """(n,) int64: the cluster in which each of this rank's rows has its seat."""
    prices: torch.Tensor
    """(K,) float32 squared distance."""
    num_rounds: int


def hold_auction(
    lister: Lister,
    rows: range,
    num_rows: int,
    seats: torch.Tensor,
    prices: torch.Tensor,
    ranks: Ranks,
    pulse: Pulse,
    steps: tuple[int, ...],
) -> Outcome:
    """Return an outcome in which every row has a seat.

    Args:
        lister: of this rank's rows.
        rows: the numbers of this rank's rows among all.
        num_rows: N.
        seats: (K,) int64 of each cluster; together at least N.
        prices: (K,) float32 squared distance, at least 0, to begin with.
        ranks: this rank among its peers, who call it as well.
        pulse: looked at after each round, and while rows are listed.
        steps: units that bids rise by at least, first roughly and then finely.
    """
    lists = PriceLists(lister, len(rows), prices, pulse)
    lists.renew(torch.arange(len(rows), device=prices.device), prices)
    nearest, farthest = lists.measure(ranks)
    # Where rows lie in their centroids, those who have to go elsewhere go as far as others are.
    unit = _UNIT * max(nearest, _LEAST_SCALE * farthest) / num_rows or 1.0
    market = Market(lists, rows.start, num_rows, seats, prices, unit, ranks)
    for step, next_step in pairwise(steps):
        _raise_prices(market, step, int(_LEFT_FRACTION * num_rows), pulse)
        release(market, next_step)
    for _ in range(_MAX_TURNS):
        _raise_prices(market, steps[-1], 0, pulse)
        _lower_prices(market, steps[-1], pulse)
        if not release(market, steps[-1]):
            break
    else:
        _raise_prices(market, steps[-1], 0, pulse)
    market.levels -= market.levels.min()  # above 0 only where every seat is taken
    return Outcome(market.held, market.prices.float(), market.num_rounds)


def _raise_prices(market: Market, step: int, num_left: int, pulse: Pulse) -> None:
    """Let rows bid until so few have no seat, and lead some to free ones where that takes long."""
    num_rounds, num_before = 0, market.num_rows
    while (num_waiting := raise_prices(market, step)) > num_left:
        num_rounds += 1
        if num_rounds % _PATIENCE == 0:
            if num_waiting > num_before // 2:
                relieve(market, step)
            num_before = num_waiting
        pulse.check()


def _lower_prices(market: Market, step: int, pulse: Pulse) -> None:
    """Let clusters with room ask less until none of them asks anything."""
    num_rounds, num_before = 0, len(market.levels)
    while num_dear := lower_prices(market, step):
        num_rounds += 1
        if num_rounds % _PATIENCE == 0:
            if num_dear > num_before // 2:
                sink_prices(market)
            num_before = num_dear
        pulse.check()
