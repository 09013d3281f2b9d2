"""The half of an auction in which prices fall: clusters with room left ask less, until it is taken.

m: offers of this rank's rows, K: num_clusters, A: clusters that ask a price and have room.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from clusterfit.worker.kmeans.market import NOBODY, Market
from clusterfit.worker.kmeans.price_lists import blocks
from clusterfit.worker.kmeans.selection import select_greatest

_NEVER: Final = 1 << 60
"""Units below others' prices that a price falls which stays."""


@dataclass(frozen=True, slots=True)
class _Offers:
    """Rows that would leave their clusters for others that ask little enough."""

    rows: torch.Tensor
    """(m,) int64 places among this rank's."""
    columns: torch.Tensor
    """(m,) int64 clusters."""
    distances_sq: torch.Tensor
    """(m,) float64 from them."""
    levels: torch.Tensor
    """(m,) int64: the price in units at which the row is as well off as where it is."""

    def take(self, places: torch.Tensor) -> _Offers:
        """Return some of them."""
        return _Offers(
            self.rows[places], self.columns[places], self.distances_sq[places], self.levels[places]
        )


def lower_prices(market: Market, step: int) -> int:
    """Let each cluster that asks a price and has room lower it once; return how many did.

    It goes `step` units below the offer that fills its room, so that whoever comes gains as much,
    and to 0 where there are fewer offers. Rows without a seat take no part.
    """
    sizes = market.sizes.clone()
    market.ranks.add(sizes)
    room = market.seats - sizes
    dear = ((room > 0) & (market.levels > 0)).nonzero()[:, 0]
    if not len(dear):
        return 0
    market.num_rounds += 1
    offers = _find_offers(market, dear, step)
    taken, levels = _choose(market, offers, dear, room[dear])
    before = market.levels.clone()
    market.levels[dear] = (levels - step).clamp(min=0).minimum(before[dear])
    falls = before - market.levels
    market.lists.fall(float(falls.max()) * market.unit)
    _move(market, offers.take(taken), falls, step)
    return len(dear)


def sink_prices(market: Market) -> None:
    """Let all clusters that ask a price and have room ask less by the same, until one asks 0.

    Where two want the same rows each goes but a step below the other in turn. Here those whose rows
    would leave fall with them, each later by what its rows lose by leaving: a shortest path, as in
    `relief`. So nobody is worse off than before by more than a unit, which whole numbers hide.
    """
    sizes = market.sizes.clone()
    market.ranks.add(sizes)
    is_dear = (market.seats > sizes) & (market.levels > 0)
    if not bool(is_dear.any()):
        return
    lags = torch.where(is_dear, 0, _NEVER)
    seated = (market.held != NOBODY).nonzero()[:, 0]
    while True:  # as many times as the longest path has moves
        shorter = _follow(market, seated, lags)
        market.ranks.take_minimum(shorter)
        if bool((shorter == lags).all()):
            break
        lags = shorter
    falls = ((lags + market.levels).min() - lags).clamp(min=0)
    market.levels -= falls
    market.lists.fall(float(falls.max()) * market.unit)


def _follow(market: Market, seated: torch.Tensor, lags: torch.Tensor) -> torch.Tensor:
    """Return (K,) lags in units, not above those given: this rank's rows follow where they lead."""
    prices = market.prices
    for _, rows in blocks(seated):
        columns = market.lists.columns[rows].long()  # (m, T)
        own = market.own_sq[rows] + prices[market.held[rows]]
        losses = market.lists.distances_sq[rows].double() + prices[columns] - own[:, None]
        ways = (market.measure(losses) + lags[columns]).amin(1)
        lags = lags.scatter_reduce(0, market.held[rows], ways, "amin")
    return lags


def _find_offers(market: Market, dear: torch.Tensor, step: int) -> _Offers:
    """Return who of this rank's rows would come to these (A,) clusters, and for what price."""
    found = []
    is_dear, prices = market.number(dear) >= 0, market.prices
    for _, rows in blocks((market.held != NOBODY).nonzero()[:, 0]):
        columns = market.lists.columns[rows].long()  # (rows, T)
        is_other = is_dear[columns] & (columns != market.held[rows, None])
        places, listed = is_other.nonzero(as_tuple=True)
        columns, places = columns[places, listed], rows[places]
        distances_sq = market.lists.distances_sq[places, listed].double()
        paid = market.own_sq[places] + prices[market.held[places]]
        levels = ((paid - distances_sq) / market.unit).floor().long()
        keen = levels >= step
        found.append((places[keen], columns[keen], distances_sq[keen], levels[keen]))
    return _Offers(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _choose(
    market: Market, offers: _Offers, dear: torch.Tensor, room: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the places of the offers that fill the (A,) rooms, and (A,) the least of each.

    Where a room is not filled all offers are among them, and the least is 0.
    """
    groups = market.number(dear)[offers.columns]
    counts = torch.bincount(groups, minlength=len(dear))
    market.ranks.add(counts)
    filled = (counts >= room).nonzero()[:, 0]
    least = torch.zeros_like(dear)
    if not len(filled):
        return torch.arange(len(groups), device=dear.device), least
    numbers = market.number(dear[filled])[offers.columns]
    places = (numbers >= 0).nonzero()[:, 0]
    is_best, least[filled] = select_greatest(
        offers.levels[places],
        numbers[places],
        room[filled],
        market.row_numbers[offers.rows[places]],
        market.num_rows,
        market.ranks,
    )
    is_taken = torch.ones_like(groups, dtype=torch.bool)
    is_taken[places] = is_best
    return is_taken.nonzero()[:, 0], least


def _move(market: Market, offers: _Offers, falls: torch.Tensor, step: int) -> None:
    """Seat rows where it costs them least, of what saves them a step at least.

    Prices have fallen by (K,) int64 units since the offers were made. What they save is counted in
    units: where no price has fallen it is a step, and a comparison of sums of floats would leave it
    to their rounding whether anything happens at all.
    """
    saved = offers.levels - falls[market.held[offers.rows]] - market.levels[offers.columns]
    offers = offers.take((saved >= step).nonzero()[:, 0])
    costs = offers.distances_sq + market.prices[offers.columns]
    least = torch.full_like(market.own_sq, torch.inf).scatter_reduce_(0, offers.rows, costs, "amin")
    is_least = costs == least[offers.rows]
    first = torch.full_like(market.held, len(market.levels))
    first.scatter_reduce_(0, offers.rows[is_least], offers.columns[is_least], "amin")
    moved = offers.take((is_least & (offers.columns == first[offers.rows])).nonzero()[:, 0])
    market.sizes += market.count(moved.columns) - market.count(market.held[moved.rows])
    market.held[moved.rows] = moved.columns
    market.own_sq[moved.rows] = moved.distances_sq
