"""Clusters within a limit: what the torch engine promises of their sizes, and what it costs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from clusterfit.config.sections.clustering import Cluster
from clusterfit.errors import TerminatedError
from clusterfit.worker.kmeans import torch_engine
from clusterfit.worker.kmeans.arithmetic import choose_arithmetic
from clusterfit.worker.kmeans.engine import Fit
from clusterfit.worker.kmeans.final import SeatAssigner, Seating, seat_rows
from clusterfit.worker.kmeans.pulse import Pulse
from clusterfit.worker.kmeans.ranks import Ranks
from clusterfit.worker.kmeans.rows import ArrayRows
from clusterfit.worker.kmeans.torch_engine import TorchEngine

from .conftest import assign, compute_distances, draw, settings
from .test_auction import TOLERANCE, find_least, sum_of

CPU = torch.device("cpu")
WIDE = 96  # dimensions from which rows are bfloat16 where the machine is fast at it


def fit(rows: np.ndarray, config: Cluster, start: Fit | None = None, seed: int = 0) -> Fit:
    return TorchEngine().fit(ArrayRows(rows), config, seed, start, lambda _fit: None)


def seat(rows: np.ndarray, config: Cluster, found: Fit) -> Seating:
    source = ArrayRows(rows)
    return seat_rows(source, range(len(rows)), found, config.max_size_ratio, CPU, Ranks(), Pulse())


def draw_uneven(num_rows: int = 900, dim: int = 12) -> np.ndarray:
    """Return rows in groups whose sizes follow a power law."""
    random = np.random.default_rng(5)
    weights = np.arange(1, 9) ** -1.5
    groups = random.choice(8, num_rows, p=weights / weights.sum())
    means = random.normal(size=(8, dim)) * 3
    return (means[groups] + random.normal(size=(num_rows, dim))).astype(np.float32)


@pytest.mark.parametrize("dim", [2, 12, WIDE])
@pytest.mark.parametrize("ratio", [1, 1.2, 2])
def test_sizes_keep_to_the_limit_at_almost_the_least_cost(dim: int, ratio: float) -> None:
    rows = draw_uneven(dim=dim)
    config = settings(16, 10, max_size_ratio=ratio)
    found = fit(rows, config)
    seating = seat(rows, config, found)
    sizes = np.bincount(seating.clusters, minlength=16)
    assert sizes.sum() == len(rows)
    assert sizes.max() <= np.ceil(ratio * len(rows) / 16)
    if ratio == 1:
        assert sizes.max() - sizes.min() == 1
    distances_sq = compute_distances(rows, found.centroids)
    least = find_least(distances_sq, seating.seats)
    assert sum_of(distances_sq, seating.clusters) <= least * (1 + TOLERANCE)


def test_without_the_option_sizes_are_beyond_the_limit_and_with_it_iterations_improve() -> None:
    rows = draw_uneven(3000)
    plain = fit(rows, settings(16, 10))
    assert plain.balance is None
    sizes = np.bincount(assign(rows, plain.centroids).assignments, minlength=16)
    assert sizes.max() > 1.2 * 3000 / 16
    found = fit(rows, settings(16, 10, max_size_ratio=1.2))
    assert found.balance is not None
    assert found.objectives == plain.objectives, "the fit comes first, as without the option"
    objectives = found.balance.objectives
    assert len(objectives) > 2
    assert all(after <= before * 1.005 for before, after in pairwise(objectives))
    assert objectives[-1] < 0.99 * objectives[0]


def test_a_limit_that_no_cluster_reaches_changes_nothing() -> None:
    rows = draw()
    found = fit(rows, settings(10, 8, max_size_ratio=9.9))
    np.testing.assert_array_equal(found.centroids, fit(rows, settings(10, 8)).centroids)
    assert found.balance is not None
    assert len(found.balance.objectives) == 1
    assert not found.balance.prices.any()


@pytest.mark.parametrize("dim", [12, WIDE])
def test_rows_of_no_limit_go_where_distance_and_price_are_least(dim: int) -> None:
    rows, others = draw_uneven(dim=dim), draw_uneven(300, dim)[::-1].copy()
    config = settings(16, 10, max_size_ratio=1)
    found = fit(rows, config)
    seating = seat(rows, config, found)
    assigned = seating.build_assigner(others[::7], is_seated=False).assign(others, 4)
    distances_sq = compute_distances(others, found.centroids)
    order = np.argsort(distances_sq + seating.prices, axis=1, kind="stable")[:, :4]
    np.testing.assert_array_equal(assigned.assignments, order[:, 0])
    assert assigned.nearest is not None
    assert (assigned.nearest == order).mean() > 0.999
    own_sq = np.take_along_axis(distances_sq, order[:, :1], 1)[:, 0]
    np.testing.assert_allclose(assigned.distances_sq, own_sq, rtol=1e-4)
    assert (assigned.assignments != distances_sq.argmin(1)).any(), "prices matter here"
    assert assigned.findings["num_audited_wrong"] == 0


def test_seated_rows_stay_in_their_seats_and_prove_what_they_cost() -> None:
    rows = draw_uneven()
    config = settings(16, 10, max_size_ratio=1.1)
    found = fit(rows, config)
    seating = seat(rows, config, found)
    assigner = seating.build_assigner(rows[::7], is_seated=True)
    assert isinstance(assigner, SeatAssigner)
    parts = [assigner.assign(rows[first : first + 400], 3) for first in (0, 400, 800)]
    assignments = np.concatenate([part.assignments for part in parts])
    np.testing.assert_array_equal(assignments, seating.clusters)
    nearest = np.concatenate([part.nearest for part in parts if part.nearest is not None])
    np.testing.assert_array_equal(nearest[:, 0], seating.clusters)
    assert all(len(set(each)) == 3 for each in nearest)
    distances_sq = compute_distances(rows, found.centroids)
    own_sq = distances_sq[np.arange(len(rows)), assignments]
    measured = np.concatenate([part.distances_sq for part in parts])
    np.testing.assert_allclose(measured, own_sq, rtol=1e-4)
    told = assigner.describe(Ranks())
    least = find_least(distances_sq, seating.seats)
    assert told["least_objective"] <= least * (1 + 1e-6)
    assert own_sq.sum() <= told["least_objective"] * (1 + 2 * TOLERANCE)


class CountingPulse(Pulse):
    """Ends a fit when it has been looked at so many times; never by default."""

    def __init__(self, most: int = -1) -> None:
        self.num_checks = 0
        self._most = most

    def check(self) -> None:
        self.num_checks += 1
        if self.num_checks == self._most:
            raise TerminatedError("stopped")


@pytest.mark.parametrize("dim", [12, WIDE])
def test_a_fit_that_was_stopped_goes_on_to_the_same_end(dim: int) -> None:
    rows = draw_uneven(800, dim)
    config = settings(16, 6, max_size_ratio=1.1)
    pulse = CountingPulse()
    checks: list[int] = []  # so many until each report; the last are of iterations with prices
    source, engine = ArrayRows(rows), TorchEngine()
    whole = engine.fit(source, config, 0, None, lambda _fit: checks.append(pulse.num_checks), pulse)
    assert whole.balance is not None
    assert len(whole.balance.objectives) > 3
    # Within the first auction, and within the one before the last.
    for places in ((-len(whole.balance.objectives) - 1, -len(whole.balance.objectives)), (-3, -2)):
        before, after = (checks[place] for place in places)
        reached: list[Fit] = []
        stopping = CountingPulse((before + after) // 2)
        with pytest.raises(TerminatedError):
            TorchEngine().fit(source, config, 0, None, reached.append, stopping)
        resumed = fit(rows, config, reached[-1])
        np.testing.assert_array_equal(resumed.centroids, whole.centroids)
        assert resumed.balance is not None
        np.testing.assert_array_equal(resumed.balance.prices, whole.balance.prices)
        assert resumed.balance.objectives == whole.balance.objectives
        assert fit(rows, config, resumed) is resumed, "nothing is left to do"


@pytest.mark.parametrize("dim", [12, WIDE])
def test_streamed_rows_end_as_resident_ones_do(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusterfit.worker.kmeans.rank_rows.CHUNK_ROWS", 256)
    rows = draw_uneven(1111, dim)
    config = settings(10, 5, max_size_ratio=1.1)
    resident = fit(rows, config)
    row_bytes = choose_arithmetic(CPU, dim).row_bytes
    room = int(1.5 * rows.size * row_bytes)  # too little for the rows, enough for a start's sample
    monkeypatch.setattr(torch_engine, "find_available_bytes", lambda _device: (room, "a test"))
    engine = TorchEngine()
    streamed = engine.fit(ArrayRows(rows), config, 0, None, lambda _fit: None)
    assert engine.describe()["rows"] == "streamed"
    np.testing.assert_array_equal(streamed.centroids, resident.centroids)
    assert streamed.balance is not None
    assert resident.balance is not None
    np.testing.assert_array_equal(streamed.balance.prices, resident.balance.prices)


def test_spherical_centroids_keep_norm_1_within_a_limit() -> None:
    rows = draw_uneven()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    config = settings(16, 5, max_size_ratio=1.1, spherical=True)
    found = fit(rows, config)
    np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1, rtol=1e-5)
    assert np.bincount(seat(rows, config, found).clusters).max() <= np.ceil(1.1 * 900 / 16)


def test_duplicates_are_divided() -> None:
    rows = np.repeat(draw(5, WIDE), 20, axis=0)
    config = settings(10, 6, max_size_ratio=1)
    found = fit(rows, config)
    assert np.isfinite(found.centroids).all()
    assert np.bincount(seat(rows, config, found).clusters).tolist() == [10] * 10
