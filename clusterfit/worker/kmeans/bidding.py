"""The half of an auction in which prices rise: rows without a seat bid for one.

n: rows of this rank, m: some of them, K: num_clusters, T: clusters listed for a row.
"""

from __future__ import annotations

from typing import Final

import torch

from clusterfit.worker.kmeans.market import NOBODY, Market
from clusterfit.worker.kmeans.price_lists import blocks
from clusterfit.worker.kmeans.selection import select_greatest

_RELEASE_STEPS: Final = 2
"""What a bid and rounding to units may cost a row together."""


def raise_prices(market: Market, step: int) -> int:
    """Let all rows without a seat bid once; return how many there were on all ranks.

    A row bids what makes its second choice as good, and `step` units more. A full cluster keeps
    the highest bids, and asks the least of those from then on.
    """
    waiting = (market.held == NOBODY).nonzero()[:, 0]
    is_sure = _bid(market, waiting, step)
    counts = torch.stack([is_sure.sum(), (~is_sure).sum()])
    market.ranks.add(counts)
    num_bidders, num_unsure = counts.tolist()
    if num_bidders:
        _seat(market, waiting[is_sure])
    elif num_unsure:
        market.lists.renew(waiting[~is_sure], market.prices.float())
    return int(num_bidders + num_unsure)


def _bid(market: Market, waiting: torch.Tensor, step: int) -> torch.Tensor:
    """Find what (m,) rows want and bid, and return whether their lists are enough to tell.

    What is not listed counts as a second choice at the least that it can cost: a bid may be lower
    than it had to be, never higher.
    """
    is_sure = torch.zeros_like(waiting, dtype=torch.bool)
    prices = market.prices
    for mine, rows in blocks(waiting):
        columns = market.lists.columns[rows].long()  # (m, T)
        distances_sq = market.lists.distances_sq[rows].double()
        limits = market.lists.limits[rows]
        costs = distances_sq + prices[columns]
        best, places = costs.min(1, keepdim=True)
        second = costs.scatter(1, places, torch.inf).amin(1).minimum(limits)
        wanted = columns.gather(1, places)[:, 0]
        is_sure[mine] = best[:, 0] <= limits + market.find_trust(step)
        market.wanted[rows] = wanted
        market.bids[rows] = market.rise(wanted, second - best[:, 0], step)
        market.own_sq[rows] = distances_sq.gather(1, places)[:, 0]
    return is_sure


def _seat(market: Market, bidders: torch.Tensor) -> None:
    """Seat the (m,) bidders, and unseat who bid least where a cluster has too few seats."""
    market.num_rounds += 1
    market.held[bidders] = market.wanted[bidders]
    joined = market.count(market.held[bidders])
    market.sizes += joined
    totals = torch.stack([market.sizes, joined])
    market.ranks.add(totals)
    full = ((totals[0] >= market.seats) & (totals[1] > 0)).nonzero()[:, 0]
    if not len(full):
        return
    numbers = torch.cat([market.number(full), full.new_tensor([-1])])  # the last is NOBODY's
    groups = numbers[market.held]  # (n,)
    claims = (groups >= 0).nonzero()[:, 0]
    is_kept, market.levels[full] = select_greatest(
        market.bids[claims],
        groups[claims],
        market.seats[full],
        market.row_numbers[claims],
        market.num_rows,
        market.ranks,
    )
    outbid = claims[~is_kept]
    market.sizes -= market.count(market.held[outbid])
    market.held[outbid] = NOBODY


def release(market: Market, step: int) -> bool:
    """Unseat the rows that are worse off than they had to be by more than some steps.

    Those whose lists may not name the cheapest cluster any more, because prices have fallen, look
    at all clusters again. The others bid anew. Returns whether any row of any rank was unseated.
    """
    margin, prices = _RELEASE_STEPS * step * market.unit, market.prices
    seated = (market.held != NOBODY).nonzero()[:, 0]
    most = market.own_sq[seated] + prices[market.held[seated]] - margin
    is_unsure = most > market.lists.limits[seated]
    if market.ranks.count(int(is_unsure.sum())):
        market.lists.renew(seated[is_unsure], prices.float())
    released = seated[most > market.lists.find_least(seated, prices)]
    market.sizes -= market.count(market.held[released])
    market.held[released] = NOBODY
    renew_bids(market, step)
    return market.ranks.count(len(released)) > 0


def renew_bids(market: Market, step: int) -> None:
    """Let all rows bid for the seats that they have what these are worth to them now."""
    prices = market.prices
    for _, rows in blocks((market.held != NOBODY).nonzero()[:, 0]):
        gains = find_least_other(market, rows, prices) - market.own_sq[rows]
        gains -= prices[market.held[rows]]
        market.bids[rows] = market.rise(market.held[rows], gains, step)


def find_least_other(market: Market, rows: torch.Tensor, prices: torch.Tensor) -> torch.Tensor:
    """Return (m,) float64: the least cost of a cluster that is not a row's own."""
    columns = market.lists.columns[rows].long()  # (m, T)
    costs = market.lists.distances_sq[rows].double() + prices[columns]
    costs.masked_fill_(columns == market.held[rows, None], torch.inf)
    return costs.amin(1).minimum(market.lists.limits[rows])
