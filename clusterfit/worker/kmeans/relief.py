"""How an auction ends its price wars: rows move along the cheapest ways to seats that are free.

Where a few rows compete for clusters that are all full, each round raises a price by little more
than a step, until at last somebody leaves for a cluster with room. What that takes is known before:
a row takes a seat in a full cluster, whose cheapest mover goes to the next one, and so on to a free
seat. The cheapest such way from each cluster is a shortest path, the lengths of whose arcs are what
movers lose. Raising each price by its length leaves everybody as well off as he could be, and makes
the moves free; so the moves are made, along ways that share no cluster.

Sources: Goldberg and Kennedy, "Global price updates help", SIAM Journal on Discrete Mathematics 10,
1997; Ahuja, Magnanti and Orlin, "Network Flows", 1993, chapter 9.7 (successive shortest paths).

n: rows of this rank, m: some of them, K: num_clusters, T: clusters listed for a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from clusterfit.worker.kmeans.bidding import renew_bids
from clusterfit.worker.kmeans.market import NOBODY, Market
from clusterfit.worker.kmeans.price_lists import blocks

_UNKNOWN: Final = -1
_NO_ROW: Final = 1 << 62
_FAR: Final = 1 << 30
"""Units that no single move is longer than."""

_NO_WAY: Final = 1 << 60
_UNLISTED: Final = 1 << 50
"""What a way is longer by that leads to a cluster which its row has not listed."""


@dataclass(slots=True)
class _Ways:
    """The cheapest way from each cluster to a free seat; the same on all ranks."""

    lengths: torch.Tensor
    """(K,) int64 units, so that equal ways are equal; _NO_WAY where none is known."""
    movers: torch.Tensor
    """(K,) int64: the number of the row that goes first."""
    nexts: torch.Tensor
    """(K,) int64: where it goes; _UNKNOWN: to some cluster that it has not listed."""
    room: torch.Tensor
    """(K,) int64: free seats."""

    @property
    def known(self) -> torch.Tensor:
        """(K,) int64: lengths without what is added where a way leads out of what is listed."""
        is_closed = self.lengths >= _UNLISTED
        return torch.where(is_closed, self.lengths - _UNLISTED, self.lengths)


def relieve(market: Market, step: int) -> None:
    """Raise prices by the ways that waiting rows have to go, and seat some of those.

    Where ways lead out of what is listed, prices rise as far as that goes, and lists are made anew.
    """
    seated = (market.held != NOBODY).nonzero()[:, 0]
    held = market.held[seated]
    ways = _find_ways(market, seated, step)
    waiting = (market.held == NOBODY).nonzero()[:, 0]
    entries, starters, farthest = _find_entries(market, ways, waiting, step)
    market.levels += ways.known.clamp(max=farthest)
    starts, passes, asks = _choose_ways(ways, starters)
    if bool(asks.any()):
        # Many at a time: a cluster's other rows would have to ask soon after.
        own = market.own_sq[seated] + market.prices[held]
        is_unsure = own > market.lists.limits[seated] - market.find_trust(step)
        market.lists.renew(seated[asks[held] & is_unsure], market.prices.float())
    is_mover = market.row_numbers[seated] == ways.movers[held]
    moving = seated[passes[held] & is_mover]
    market.sit(moving, ways.nexts[market.held[moving]])
    starting = starts[entries] & (market.row_numbers[waiting] == starters[entries])
    market.sit(waiting[starting], entries[starting])
    renew_bids(market, step)


def _find_ways(market: Market, seated: torch.Tensor, step: int) -> _Ways:
    """Return the cheapest ways over the moves of all ranks' seated rows.

    Only where none leads to a free seat over clusters that rows have listed, some row is taken to
    go to one that it has not, to lose as little as its limit says, and to find a free seat there.
    """
    sizes = market.sizes.clone()
    market.ranks.add(sizes)
    room = market.seats - sizes
    lengths = torch.where(room > 0, 0, _NO_WAY)
    ways = _Ways(lengths, torch.full_like(room, _NO_ROW), torch.full_like(room, _UNKNOWN), room)
    held, numbers = market.held[seated], market.row_numbers[seated]
    arcs, unlisted = _measure_arcs(market, seated, step)
    while True:  # as many times as the longest way has moves
        losses, targets = _go(market, seated, arcs, unlisted, ways.lengths)
        lengths = ways.lengths.scatter_reduce(0, held, losses, "amin")
        market.ranks.take_minimum(lengths)
        is_shorter = lengths < ways.lengths
        if not bool(is_shorter.any()):
            return ways
        goes = is_shorter[held] & (losses == lengths[held])
        movers = torch.full_like(ways.movers, _NO_ROW)
        movers.scatter_reduce_(0, held[goes], numbers[goes], "amin")
        market.ranks.take_minimum(movers)
        goes &= numbers == movers[held]
        nexts = torch.full_like(ways.nexts, len(lengths))
        nexts[held[goes]] = targets[goes]
        market.ranks.take_minimum(nexts)
        ways.lengths = lengths
        ways.movers = torch.where(is_shorter, movers, ways.movers)
        ways.nexts = torch.where(is_shorter, nexts, ways.nexts)


def _measure_arcs(
    market: Market, seated: torch.Tensor, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the lengths of seated rows' moves to (m, T) listed clusters, and (m,) to any other.

    A move is a step longer than what it loses, so that ways have few moves; prices that rise by
    such lengths leave rows a step worse off at most, as bids do.
    """
    shape = len(seated), market.lists.columns.shape[1]
    arcs = torch.empty(shape, dtype=torch.int32, device=seated.device)
    unlisted = torch.empty_like(seated)
    prices = market.prices
    for mine, rows in blocks(seated):
        columns = market.lists.columns[rows].long()  # (m, T)
        own = market.own_sq[rows] + prices[market.held[rows]]
        losses = market.lists.distances_sq[rows].double() + prices[columns] - own[:, None]
        losses.masked_fill_(columns == market.held[rows, None], torch.inf)
        arcs[mine] = _count_units(market, losses, step).int()
        unlisted[mine] = _count_units(market, market.lists.limits[rows] - own, step) + _UNLISTED
    return arcs, unlisted


def _count_units(market: Market, losses: torch.Tensor, step: int) -> torch.Tensor:
    """Return (...) int64: the lengths of moves that lose so much squared distance."""
    return (losses / market.unit).floor().clamp(-_FAR, _FAR).long().add(step).clamp(0, _FAR)


def _go(
    market: Market,
    seated: torch.Tensor,
    arcs: torch.Tensor,
    unlisted: torch.Tensor,
    lengths: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (m,) the lengths of ways that begin with a row's move, and where to, in int64."""
    ways, targets = torch.empty_like(seated), torch.empty_like(seated)
    for mine, rows in blocks(seated):
        columns = market.lists.columns[rows].long()  # (m, T)
        least, places = (arcs[mine] + lengths[columns]).min(1)
        ways[mine] = least.minimum(unlisted[mine])
        named = columns.gather(1, places[:, None])[:, 0]
        targets[mine] = torch.where(least <= unlisted[mine], named, _UNKNOWN)
    return ways, targets


def _find_entries(
    market: Market, ways: _Ways, waiting: torch.Tensor, step: int
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return where waiting rows enter, who is first in each cluster, and the farthest way.

    The (m,) clusters from which ways are cheapest; of all ranks' rows the (K,) lowest numbers that
    enter there; and the longest of all rows' ways in units. A way begins with what a row loses by
    entering where it does: rows that would rather wait elsewhere go on to bid there, step by step,
    unless prices rise by as much.
    """
    entries, lengths = torch.zeros_like(waiting), torch.zeros_like(waiting)
    is_sure = torch.zeros_like(waiting, dtype=torch.bool)
    prices, rises, known = market.prices, ways.lengths.double() * market.unit, ways.known
    for mine, rows in blocks(waiting):
        columns = market.lists.columns[rows].long()  # (m, T)
        costs = market.lists.distances_sq[rows].double() + prices[columns]
        least, places = (costs + rises[columns]).min(1, keepdim=True)
        entries[mine] = columns.gather(1, places)[:, 0]
        has_way = ways.lengths[entries[mine]] < _NO_WAY
        limits = market.lists.limits[rows] + market.find_trust(step)
        is_sure[mine] = has_way & (least[:, 0] <= limits)
        losses = costs.gather(1, places)[:, 0] - costs.amin(1)
        lengths[mine] = known[entries[mine]] + market.measure(losses)
    starters = torch.full_like(ways.movers, _NO_ROW)
    numbers = market.row_numbers[waiting[is_sure]]
    starters.scatter_reduce_(0, entries[is_sure], numbers, "amin")
    market.ranks.take_minimum(starters)
    longest = float(lengths[is_sure].max()) if bool(is_sure.any()) else 0.0
    return entries, starters, int(market.ranks.find_maximum(longest))


def _choose_ways(
    ways: _Ways, starters: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return which clusters start a way, pass a row on, or have a mover that must look again.

    Three (K,) bool, the same on all ranks. The shortest ways come first; a way that shares a
    cluster with one of them has to wait.
    """
    nexts, room = ways.nexts.tolist(), ways.room.tolist()
    starts, passes, asks = (torch.zeros_like(starters, dtype=torch.bool) for _ in range(3))
    used: set[int] = set()
    order = torch.argsort(ways.lengths, stable=True)
    for start in order[starters[order] < _NO_ROW].tolist():
        way, last = [], start
        while last != _UNKNOWN and room[last] <= 0 and last not in used:
            way.append(last)
            last = nexts[last]
        if last == _UNKNOWN:
            asks[way[-1]] = True
        elif room[last] > 0:
            room[last] -= 1
            used.update(way)
            starts[start] = True
            passes[way] = True
    return starts, passes, asks
