"""The auction of seats against scipy's exact assignment, and what holds for any of its ends."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from clusterfit.worker.kmeans.auction import Outcome, hold_auction
from clusterfit.worker.kmeans.bidding import raise_prices
from clusterfit.worker.kmeans.lowering import lower_prices, sink_prices
from clusterfit.worker.kmeans.market import Market
from clusterfit.worker.kmeans.price_lists import PriceLists
from clusterfit.worker.kmeans.pulse import Pulse
from clusterfit.worker.kmeans.ranks import Ranks
from clusterfit.worker.kmeans.relief import relieve
from clusterfit.worker.kmeans.seats import allot_seats
from clusterfit.worker.kmeans.selection import select_greatest

from .conftest import compute_distances, draw

TOLERANCE = 1e-3
"""Of the objective; bounds are ten times as wide."""


class Distances:
    """Lists from a matrix of all distances."""

    def __init__(self, distances_sq: np.ndarray) -> None:
        self._distances_sq = torch.from_numpy(distances_sq.astype(np.float32))
        self.num_listed_rows = 0

    def list_cheapest(
        self, prices: torch.Tensor, wanted: torch.Tensor, num_listed: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        places = wanted.nonzero()[:, 0]
        self.num_listed_rows += len(places)
        distances_sq = self._distances_sq[places]
        columns = (distances_sq + prices).topk(num_listed, 1, largest=False).indices.sort(1).values
        yield places, columns.int(), distances_sq.gather(1, columns)


class Impatience(Pulse):
    """No auction of a few rows takes so many rounds, unless it never ends."""

    def __init__(self, num_rounds: int) -> None:
        self._num_left = num_rounds

    def check(self) -> None:
        self._num_left -= 1
        assert self._num_left > 0, "the auction does not end"


def hold(
    distances_sq: np.ndarray,
    seats: torch.Tensor,
    prices: torch.Tensor | None = None,
    num_rounds: int = 5000,
) -> Outcome:
    num_rows = len(distances_sq)
    return hold_auction(
        Distances(distances_sq),
        range(num_rows),
        num_rows,
        seats,
        torch.zeros(len(seats)) if prices is None else prices,
        Ranks(),
        Impatience(num_rounds),
        (64, 8, 1),
    )


def find_least(distances_sq: np.ndarray, seats: np.ndarray) -> float:
    """Return the least sum within the limit: each cluster once for each of its seats."""
    columns = np.repeat(np.arange(len(seats)), seats)
    costs = distances_sq[:, columns]
    return float(costs[linear_sum_assignment(costs)].sum())


def sum_of(distances_sq: np.ndarray, held: np.ndarray) -> float:
    return float(distances_sq[np.arange(len(held)), held].sum())


@pytest.fixture(params=[4, 32])
def num_listed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Lists so short that some are soon used up, and such as know all clusters."""
    monkeypatch.setattr("clusterfit.worker.kmeans.price_lists.NUM_LISTED", request.param)
    return int(request.param)


@pytest.mark.usefixtures("num_listed")
@pytest.mark.parametrize("ratio", [1, 1.1, 1.5, 3])
@pytest.mark.parametrize(("num_rows", "dim", "num_groups"), [(300, 2, 3), (307, 12, 20)])
def test_seats_are_as_good_as_an_exact_programs(
    num_rows: int, dim: int, num_groups: int, ratio: float
) -> None:
    rows = draw(num_rows, dim, num_groups)
    # Of one group, so that the others' rows all want the same few.
    distances_sq = compute_distances(rows, rows[:20] * 0.5)
    seats = allot_seats(num_rows, ratio, torch.zeros(20))
    outcome = hold(distances_sq, seats)
    held, sizes = outcome.held.numpy(), np.bincount(outcome.held.numpy(), minlength=20)
    assert sizes.sum() == num_rows
    assert (sizes <= seats.numpy()).all()
    least = find_least(distances_sq, seats.numpy())
    found = sum_of(distances_sq, held)
    assert least <= found * (1 + 1e-9)
    assert found <= least + TOLERANCE * distances_sq.min(1).sum()


@pytest.mark.usefixtures("num_listed")
@pytest.mark.parametrize("ratio", [1.1, 1.5])
def test_prices_explain_the_seats(ratio: float) -> None:
    rows = draw(600, 2, 3)
    distances_sq = compute_distances(rows, rows[:20])
    outcome = hold(distances_sq, allot_seats(600, ratio, torch.zeros(20)))
    held, prices = outcome.held.numpy(), outcome.prices.double().numpy()
    costs = distances_sq + prices
    step = 0.01 * distances_sq.min(1).sum() / 600
    assert (costs[np.arange(600), held] - costs.min(1)).max() <= 2.01 * step
    has_room = np.bincount(held, minlength=20) < int(np.ceil(ratio * 30))
    assert has_room.any()
    assert (prices[has_room] == 0).all()
    assert (prices >= 0).all()


@pytest.mark.parametrize("step", [1, 10])
def test_prices_only_rise_while_rows_bid_and_only_fall_while_clusters_ask(step: int) -> None:
    rows = draw(400, 3)
    prices = torch.linspace(0, 300, 12)  # much too high for some
    lists = PriceLists(Distances(compute_distances(rows, rows[:12])), 400, prices, Pulse())
    seats = allot_seats(400, 1.3, prices)
    market = Market(lists, 0, 400, seats, prices, 0.1, Ranks())
    reached = [market.levels.clone()]
    while raise_prices(market, step):
        if len(reached) % 16 == 0:
            relieve(market, step)
        reached.append(market.levels.clone())
        assert (torch.bincount(market.held[market.held >= 0], minlength=12) <= seats).all()
    assert all((after >= before).all() for before, after in pairwise(reached))
    reached = [market.levels.clone()]
    while lower_prices(market, step):
        reached.append(market.levels.clone())
        assert (torch.bincount(market.held, minlength=12) <= seats).all()
    assert all((after <= before).all() for before, after in pairwise(reached))
    assert len(reached) > 1
    assert (reached[-1][torch.bincount(market.held, minlength=12) < seats] == 0).all()


@pytest.mark.parametrize("farther", [1.0, 0.3, 7e-5, 3e6])
@pytest.mark.parametrize(
    ("num_rows", "num_seats"), [(15, 10), (15, 9), (7, 4), (100, 70), (25, 10)]
)
def test_two_clusters_at_one_point_share_the_rows_that_lie_there(
    num_rows: int, num_seats: int, farther: float
) -> None:
    """Both have room, and a row of the one saves next to nothing by going to the other."""
    distances_sq = np.tile([0.0, 0.0, farther], (num_rows, 1))
    outcome = hold(distances_sq, torch.full((3,), num_seats), num_rounds=400)
    sizes = np.bincount(outcome.held.numpy(), minlength=3)
    assert sizes[:2].max() <= num_seats
    assert sizes[2] == max(0, num_rows - 2 * num_seats)
    assert (outcome.prices.numpy()[sizes < num_seats] == 0).all()


@pytest.mark.parametrize("price", [0.9, 0.3])
def test_clusters_at_one_point_that_ask_what_nobody_pays_any_more_fall_together(
    price: float,
) -> None:
    """In units these prices are many millions, and below each other the two go by one."""
    distances_sq = np.tile([0.0, 0.0, 1.0], (15, 1))
    prices = torch.tensor([price, price, 0.0])
    outcome = hold(distances_sq, torch.tensor([10, 10, 10]), prices, num_rounds=200)
    assert sum_of(distances_sq, outcome.held.numpy()) == 0
    assert not outcome.prices.any()


@pytest.mark.usefixtures("num_listed")
@pytest.mark.parametrize("seed", range(25))
def test_rows_and_centroids_that_occur_often_are_seated_within_the_limit(seed: int) -> None:
    random = np.random.default_rng(seed)
    num_rows, num_clusters = int(random.integers(8, 90)), int(random.integers(2, 9))
    points = random.normal(size=(int(random.integers(1, 6)), 2)) * 10 ** random.uniform(-2, 2)
    rows = points[random.integers(len(points), size=num_rows)]
    centroids = points[random.integers(len(points), size=num_clusters)]
    distances_sq = compute_distances(rows, centroids)
    ratio = [1, 1.1, 1.3, 1.5, 2, 3][seed % 6]
    seats = allot_seats(num_rows, ratio, torch.zeros(num_clusters))
    most = float(random.choice([0, 0.1, 3])) * distances_sq.mean()
    prices = torch.from_numpy((random.random(num_clusters) * most).astype(np.float32))
    outcome = hold(distances_sq, seats, prices)
    held = outcome.held.numpy()
    assert (np.bincount(held, minlength=num_clusters) <= seats.numpy()).all()
    sums = distances_sq.min(1).sum(), 1e-6 * distances_sq.max(1).sum()
    found, least = sum_of(distances_sq, held), find_least(distances_sq, seats.numpy())
    assert found <= least + 2.01 * 0.01 * max(sums) + 1e-6 * found


def test_prices_that_sink_leave_everybody_as_well_off() -> None:
    rows = draw(400, 3)
    distances_sq = compute_distances(rows, rows[[0, 0, 1, 1, 2, 3, 4, 5]])
    prices = torch.full((8,), 100.0)
    seats = allot_seats(400, 2, prices)
    lists = PriceLists(Distances(distances_sq), 400, prices, Pulse())
    market = Market(lists, 0, 400, seats, prices, 0.1, Ranks())
    lists.renew(torch.arange(400), prices)
    while raise_prices(market, 1):
        pass

    def find_regrets() -> np.ndarray:
        costs = distances_sq + market.prices.numpy()
        regrets: np.ndarray = costs[np.arange(400), market.held.numpy()] - costs.min(1)
        return regrets

    before, levels, held = find_regrets(), market.levels.clone(), market.held.clone()
    sink_prices(market)
    is_open = (market.sizes < seats).numpy()
    assert is_open.any()
    assert (market.levels <= levels).all()
    assert (market.levels == 0).any()
    assert (market.held == held).all()
    assert (find_regrets() <= np.maximum(before, 0) + market.unit * 1.01).all()
    after = market.levels.clone()
    sink_prices(market)
    assert (market.levels <= after).all()


def test_a_limit_that_no_cluster_reaches_costs_nothing() -> None:
    rows = draw(200, 3)
    distances_sq = compute_distances(rows, rows[:7])
    outcome = hold(distances_sq, torch.full((7,), 200))
    np.testing.assert_array_equal(outcome.held.numpy(), distances_sq.argmin(1))
    assert not outcome.prices.any()


def test_permuting_the_rows_permutes_the_seats() -> None:
    rows = draw(500, 4)
    order = np.random.default_rng(3).permutation(len(rows))
    distances_sq = compute_distances(rows, rows[:15])
    seats = allot_seats(500, 1.2, torch.zeros(15))
    ours, theirs = hold(distances_sq, seats), hold(distances_sq[order], seats)
    # Of equal bids the first row's is taken, which is another one now.
    assert (ours.held.numpy()[order] == theirs.held.numpy()).mean() > 0.99
    step = 0.01 * distances_sq.min(1).mean()
    np.testing.assert_allclose(ours.prices.numpy(), theirs.prices.numpy(), atol=3 * step)


def test_equal_rows_are_divided_and_the_lower_ones_stay() -> None:
    distances_sq = np.tile([0.0, 1.0, 5.0], (9, 1))
    outcome = hold(distances_sq, torch.tensor([3, 3, 3]))
    assert np.bincount(outcome.held.numpy()).tolist() == [3, 3, 3]
    nowhere = hold(np.zeros((10, 4)), allot_seats(10, 1, torch.zeros(4)))
    assert np.bincount(nowhere.held.numpy()).tolist() == [3, 3, 2, 2]


@pytest.mark.parametrize(
    ("num_rows", "num_clusters", "ratio", "expected"),
    [
        (12, 4, 1, [3, 3, 3, 3]),
        (14, 4, 1, [3, 4, 3, 4]),
        (12, 4, 1.5, [5, 5, 5, 5]),
        (1000, 10, 1.1, [110] * 10),  # 1.1 * 1000 / 10 is a little more than 110
        (3, 4, 1, [0, 1, 1, 1]),
    ],
)
def test_seats_are_the_ratio_of_the_mean_rounded_up(
    num_rows: int, num_clusters: int, ratio: float, expected: list[int]
) -> None:
    prices = torch.tensor([0.0, 2.0, 1.0, 3.0] + [0.0] * (num_clusters - 4))
    assert allot_seats(num_rows, ratio, prices).tolist() == expected


def test_the_greatest_are_those_that_sorting_finds() -> None:
    random = np.random.default_rng(0)
    numbers = random.integers(0, 50, 400)  # many equal ones
    numbers[:100] = random.integers(0, 1 << 38, 100)
    groups = random.integers(0, 5, 400)
    wanted = np.array([1, 7, 30, 60, (groups == 4).sum()])
    rows = np.arange(1000, 1400)
    tensors = [torch.from_numpy(each) for each in (numbers, groups, wanted, rows)]
    taken, least = select_greatest(tensors[0], tensors[1], tensors[2], tensors[3], 1400, Ranks())
    for group in range(5):
        mine = np.flatnonzero(groups == group)
        best = mine[np.lexsort((mine, -numbers[mine]))][: wanted[group]]
        np.testing.assert_array_equal(
            np.flatnonzero(taken.numpy() & (groups == group)), np.sort(best)
        )
        assert least[group] == numbers[best].min()
