"""The torch engine against definitions, an independent float64 program, and faiss."""

from __future__ import annotations

from itertools import pairwise

import faiss
import numpy as np
import pytest
import torch

from clusterfit.config.forecast.centroids import DEVICE_BYTES, HOST_BYTES
from clusterfit.config.sections.clustering import Cluster
from clusterfit.errors import InvalidDataError, TerminatedError
from clusterfit.worker.kmeans import torch_engine
from clusterfit.worker.kmeans.arithmetic import choose_arithmetic, has_fast_products
from clusterfit.worker.kmeans.engine import Fit
from clusterfit.worker.kmeans.pulse import Pulse
from clusterfit.worker.kmeans.rank_rows import RankRows
from clusterfit.worker.kmeans.rows import ArrayRows
from clusterfit.worker.kmeans.torch_engine import TorchEngine
from clusterfit.worker.kmeans.two_level import allot

from .conftest import assign, compute_distances, draw, iterate_lloyd, settings

needs_fast_products = pytest.mark.skipif(
    not has_fast_products(), reason="this CPU is no faster at rounded numbers"
)
WIDE = 96  # dimensions from which rows are bfloat16 where the machine is fast at it


def fit(rows: np.ndarray, config: Cluster, initial: np.ndarray | None = None, seed: int = 0) -> Fit:
    start = None if initial is None else Fit(initial)
    return TorchEngine().fit(ArrayRows(rows), config, seed, start, lambda _fit: None)


def compute_objective(rows: np.ndarray, centroids: np.ndarray) -> float:
    return float(compute_distances(rows, centroids).min(1).sum())


@pytest.mark.parametrize("dim", [1, 12, WIDE])
def test_lloyd_from_the_same_start_is_an_independent_programs(dim: int) -> None:
    rows = draw(900, dim)
    initial = rows[:8].copy()
    centroids, objectives = iterate_lloyd(rows, initial, 6)
    found = fit(rows, settings(8, 6, relaxation=1), initial)
    tolerance = 5e-3 if dim == WIDE else 1e-5  # rounded products may decide near ties otherwise
    done = found.num_iterations  # it ends where no row changes any more
    np.testing.assert_allclose(found.objectives, objectives[:done], rtol=tolerance)
    ours, theirs = (compute_objective(rows, each) for each in (found.centroids, centroids))
    assert ours == pytest.approx(theirs, rel=tolerance)


@pytest.mark.parametrize(("dim", "num_groups"), [(12, 60), (WIDE, 1)])
def test_lloyd_from_the_same_start_is_faisss(dim: int, num_groups: int) -> None:
    rows = draw(4000, dim, num_groups)
    initial = rows[:40].copy()
    reference = faiss.Kmeans(dim, 40, niter=10, max_points_per_centroid=10**6)
    reference.train(rows, init_centroids=initial)
    assert reference.obj is not None
    engine = TorchEngine()
    config = settings(40, 10, num_candidates=0, relaxation=1)
    found = engine.fit(ArrayRows(rows), config, 0, Fit(initial), lambda _fit: None)
    done = found.num_iterations
    assert done >= 5
    tolerance = 1e-5 if engine.describe()["dtype"] == "float32" else 1e-3
    np.testing.assert_allclose(found.objectives, reference.obj[:done], rtol=tolerance)


@pytest.mark.parametrize("init", ["two_level", "random"])
@pytest.mark.parametrize("dim", [3, WIDE])
def test_the_objective_never_rises(init: str, dim: int) -> None:
    rows = draw(1003, dim, num_groups=50)
    found = fit(rows, settings(37, 12, init=init))
    objectives = [*found.objectives, compute_objective(rows, found.centroids)]
    assert all(later <= before * (1 + 1e-4) for before, later in pairwise(objectives))


@pytest.mark.parametrize("relaxation", [1.0, 1.5, 1.9])
def test_centroids_go_beyond_the_means_and_end_at_them(relaxation: float) -> None:
    rows = draw(900, 12)
    initial = rows[:8].copy()
    first_means, _ = iterate_lloyd(rows, initial, 1)
    config = settings(8, 2, relaxation=relaxation, num_candidates=0)
    reached: list[Fit] = []
    last = TorchEngine().fit(ArrayRows(rows), config, 0, Fit(initial), reached.append)
    beyond = initial + relaxation * (first_means - initial)
    np.testing.assert_allclose(reached[0].centroids, beyond, rtol=1e-4, atol=1e-4)
    means, _ = iterate_lloyd(rows, reached[0].centroids, 1)
    np.testing.assert_allclose(last.centroids, means, rtol=1e-4, atol=1e-4)


def test_relaxed_iterations_get_lower_in_fewer() -> None:
    rows = draw(6000, 32, num_groups=300)
    plain, relaxed = (
        fit(rows, settings(100, 12, relaxation=relaxation)).objectives[-1]
        for relaxation in (1.0, 1.5)
    )
    assert relaxed < plain


@pytest.mark.parametrize("num_groups", [1, 300])
def test_two_levels_begin_better_than_drawn_rows(num_groups: int) -> None:
    rows = draw(6000, 32, num_groups=num_groups)
    two_level, drawn = (fit(rows, settings(100, 1, init=init)) for init in ("two_level", "random"))
    assert two_level.objectives[0] < 0.8 * drawn.objectives[0]


def test_permuting_the_rows_permutes_the_assignments() -> None:
    rows = draw(800, WIDE)
    order = np.random.default_rng(3).permutation(len(rows))
    initial = rows[:10].copy()
    ours, theirs = (fit(each, settings(), initial) for each in (rows, rows[order]))
    np.testing.assert_array_equal(ours.centroids, theirs.centroids)
    assigned = assign(rows, ours.centroids).assignments
    permuted = assign(rows[order], theirs.centroids).assignments
    np.testing.assert_array_equal(assigned[order], permuted)


@pytest.mark.parametrize(
    ("num_rows", "dim", "num_clusters"),
    [(50, 4, 1), (50, 4, 50), (50, 1, 7), (101, WIDE, 100), (17, 200, 16), (3, 2, 2)],
)
def test_every_shape_ends_in_as_many_clusters_as_asked(
    num_rows: int, dim: int, num_clusters: int
) -> None:
    rows = np.random.default_rng(1).normal(size=(num_rows, dim)).astype(np.float32)
    found = fit(rows, settings(num_clusters, 10))
    assert found.centroids.shape == (num_clusters, dim)
    assert np.isfinite(found.centroids).all()
    assigned = assign(rows, found.centroids)
    distances = compute_distances(rows, found.centroids)
    np.testing.assert_array_equal(assigned.assignments, distances.argmin(1))
    np.testing.assert_allclose(assigned.distances_sq, distances.min(1), rtol=1e-3, atol=1e-4)
    if num_clusters == 1:
        np.testing.assert_allclose(found.centroids[0], rows.mean(0), atol=1e-3)
    if num_clusters == num_rows:
        assert distances.min(1).sum() < 1e-3 * (rows**2).sum()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_neither_size_nor_place_of_the_numbers_matters(scale: float) -> None:
    rows = draw(600, WIDE) * np.float32(scale)
    moved = rows + np.float32(100 * scale)
    ours, theirs = fit(rows, settings(9, 8)), fit(moved, settings(9, 8))
    assert compute_objective(moved, theirs.centroids) == pytest.approx(
        compute_objective(rows, ours.centroids), rel=0.05
    )


def test_rows_of_zeros_constant_columns_and_duplicates_give_numbers() -> None:
    rows = np.repeat(draw(5, WIDE), 40, axis=0)
    rows[:40] = 0
    rows[:, 3] = 7.5
    found = fit(rows, settings(20, 6))
    assert np.isfinite(found.centroids).all()
    assert np.isfinite(found.objectives).all()
    assigned = assign(rows, found.centroids)
    assert len(np.unique(assigned.assignments)) == 5, "as many as there are different rows"
    assert assigned.distances_sq.max() < 1e-3
    same = np.repeat(draw(1, WIDE), 30, axis=0)
    assert np.isfinite(fit(same, settings(4, 3)).centroids).all()


def test_an_empty_cluster_splits_the_widest_one() -> None:
    random = np.random.default_rng(0)
    tight = random.normal(size=(200, 5)) * 0.1
    wide = random.normal(size=(200, 5)) * 3 + 50
    rows = np.concatenate([tight, wide]).astype(np.float32)
    far = np.full((1, 5), 1e4)
    initial = np.concatenate([tight[:1], wide[:1], far]).astype(np.float32)
    found = fit(rows, settings(3, 8), initial)
    sizes = np.bincount(assign(rows, found.centroids).assignments, minlength=3)
    assert sizes[0] == 200
    assert sizes.min() > 20


def test_numbers_that_are_not_finite_are_refused() -> None:
    for bad in (np.nan, np.inf, -np.inf):
        rows = draw(60)
        rows[41, 3] = bad
        with pytest.raises(InvalidDataError, match="not finite"):
            fit(rows, settings(4, 2))


@pytest.mark.parametrize("dim", [12, WIDE])
def test_a_fit_that_was_stopped_goes_on_to_the_same_end(dim: int) -> None:
    rows = draw(1500, dim, num_groups=1)
    config = settings(30, 60, stop_churn=0.01, num_candidates=2)
    whole = fit(rows, config)
    assert whole.is_settled
    assert whole.num_iterations > 4
    for last in {0, 1, whole.num_iterations // 2, whole.num_iterations - 1, whole.num_iterations}:
        reached: list[Fit] = []

        def stop(fit: Fit, last: int = last, reached: list[Fit] = reached) -> None:
            reached.append(fit)
            if fit.num_iterations == last:
                raise TerminatedError("stopped")

        with pytest.raises(TerminatedError):
            TorchEngine().fit(ArrayRows(rows), config, 0, None, stop)
        resumed = TorchEngine().fit(ArrayRows(rows), config, 0, reached[-1], lambda _fit: None)
        np.testing.assert_array_equal(resumed.centroids, whole.centroids)
        assert resumed.objectives == whole.objectives


def test_stopping_rules_stop() -> None:
    rows = draw(2000, 12, num_groups=40)
    exact = fit(rows, settings(30, 500))
    assert exact.is_settled, "an iteration in which no row changes is the last"
    assert exact.num_iterations < 500
    by_churn = fit(rows, settings(30, 500, stop_churn=0.02))
    by_objective = fit(rows, settings(30, 500, stop_improvement=1e-3))
    assert 1 < by_churn.num_iterations < exact.num_iterations
    assert 1 < by_objective.num_iterations < exact.num_iterations
    before, now = by_objective.objectives[-2:]
    assert (before - now) / before < 1e-3


def test_equal_seeds_give_equal_bits_and_others_others() -> None:
    rows = draw(1500, WIDE, num_groups=40)
    first, again, other = (fit(rows, settings(20, 3), seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.centroids, again.centroids)
    assert not np.array_equal(first.centroids, other.centroids)


@pytest.mark.parametrize("dim", [12, WIDE])
def test_streamed_rows_end_as_resident_ones_do(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusterfit.worker.kmeans.rank_rows.CHUNK_ROWS", 256)
    rows = draw(1111, dim, num_groups=40)
    config = settings(10, 5)
    resident = fit(rows, config)
    arithmetic = choose_arithmetic(torch.device("cpu"), dim)
    # Too little for the rows, enough for the sample that a start needs.
    state = 10 * dim * (DEVICE_BYTES + HOST_BYTES)
    room = state + int(1.5 * rows.size * arithmetic.row_bytes)
    monkeypatch.setattr(torch_engine, "find_available_bytes", lambda _device: (room, "a test"))
    engine = TorchEngine()
    streamed = engine.fit(ArrayRows(rows), config, 0, None, lambda _fit: None)
    assert engine.describe()["rows"] == "streamed"
    np.testing.assert_array_equal(streamed.centroids, resident.centroids)
    assert streamed.objectives == resident.objectives


def test_a_start_is_found_among_as_many_rows_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = draw(3000, 12, num_groups=40)
    state = 20 * 12 * (DEVICE_BYTES + HOST_BYTES)
    room = state + rows.nbytes // 10
    monkeypatch.setattr(torch_engine, "find_available_bytes", lambda _device: (room, "a test"))
    kept: list[int] = []
    thin = RankRows.thin

    def note(self: RankRows, step: int, pulse: Pulse) -> RankRows:
        kept.append(thin(self, step, pulse).num_rows)
        return thin(self, step, pulse)

    monkeypatch.setattr(RankRows, "thin", note)
    found = fit(rows, settings(20, 3))
    assert kept == [75]  # half of the room, and each row twice
    assert found.objectives[-1] < 1.1 * fit(rows, settings(20, 3, init="random")).objectives[-1]


def test_spherical_centroids_have_norm_1() -> None:
    rows = draw(900, WIDE, num_groups=30)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = fit(rows, settings(20, 5, spherical=True))
    np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1, rtol=1e-5)
    plain = fit(rows, settings(20, 5))
    assert np.linalg.norm(plain.centroids, axis=1).max() < 1


@pytest.fixture
def tight() -> np.ndarray:
    """Four groups a million times tighter than they lie apart: 8 bits see no difference inside."""
    random = np.random.default_rng(0)
    centers = random.normal(size=(4, WIDE)) * 100
    noise = random.normal(size=(800, WIDE)) * 1e-2
    rows: np.ndarray = (centers[np.arange(800) % 4] + noise).astype(np.float32)
    return rows


def compute_scatter(rows: np.ndarray) -> float:
    """Return the objective of the four groups' means."""
    groups = [rows[group::4].astype(np.float64) for group in range(4)]
    return float(sum(((group - group.mean(0)) ** 2).sum() for group in groups))


@needs_fast_products
def test_bfloat16_is_given_up_where_it_would_cost_more_than_it_saves(tight: np.ndarray) -> None:
    engine = TorchEngine()
    found = engine.fit(ArrayRows(tight), settings(40, 10), 0, None, lambda _fit: None)
    assert engine.describe()["dtype"] == "float32"
    assert "bfloat16 would add" in engine.describe()["reason"]
    assert compute_objective(tight, found.centroids) < compute_scatter(tight)
    engine.fit(ArrayRows(draw(800, WIDE)), settings(10, 1), 0, None, lambda _fit: None)
    assert engine.describe()["dtype"] == "bfloat16"


@needs_fast_products
@pytest.mark.parametrize("num_candidates", [0, 2])
def test_bfloat16_is_given_up_as_soon_as_centroids_show_what_it_costs(
    tight: np.ndarray, num_candidates: int
) -> None:
    """The first ones miss a group, beside which rounding is nothing; then none does."""
    initial = np.concatenate([tight[:3], np.full((1, WIDE), 1e4, np.float32)])
    config = settings(4, 30, num_candidates=num_candidates)
    engine = TorchEngine()
    dtypes: list[str] = []

    def report(_fit: Fit) -> None:
        dtypes.append(engine.describe()["dtype"])

    found = engine.fit(ArrayRows(tight), config, 0, Fit(initial), report)
    assert dtypes[0] == "bfloat16"
    assert dtypes[-1] == "float32"
    assert compute_objective(tight, found.centroids) == pytest.approx(
        compute_scatter(tight), rel=1e-3
    )


@needs_fast_products
def test_a_resumed_fit_rounds_where_the_undisturbed_one_does(tight: np.ndarray) -> None:
    initial = np.concatenate([tight[:3], np.full((1, WIDE), 1e4, np.float32)])
    config = settings(4, 30)
    reached: list[Fit] = []
    whole = TorchEngine().fit(ArrayRows(tight), config, 0, Fit(initial), reached.append)
    excesses = [each.rounding_excess for each in reached]
    assert excesses[0] == 0 < excesses[-1], "given up on the way"
    for each in reached:
        resumed = TorchEngine().fit(ArrayRows(tight), config, 0, each, lambda _fit: None)
        np.testing.assert_array_equal(resumed.centroids, whole.centroids)
        assert resumed.objectives == whole.objectives


def test_a_fit_that_is_done_reads_nothing_when_it_is_resumed() -> None:
    class Unreadable(ArrayRows):
        def read(self, start: int, stop: int) -> np.ndarray:
            raise AssertionError(f"read {start}..{stop}")

    rows = draw(300)
    for config in (settings(4, 3), settings(4, 300)):
        found = fit(rows, config)
        engine = TorchEngine()
        again = engine.fit(Unreadable(rows), config, 0, found, lambda _fit: None)
        assert again is found


@pytest.mark.parametrize(("dim", "num_clusters"), [(2, 300), (WIDE, 300), (700, 65)])
def test_the_assignment_is_float64s(dim: int, num_clusters: int) -> None:
    """On rows without any groups, where bfloat16 alone gets many wrong."""
    random = np.random.default_rng(4)
    rows = random.normal(size=(3000, dim)).astype(np.float32) + 5
    centroids = random.normal(size=(num_clusters, dim)).astype(np.float32) * 0.3 + 5
    found = assign(rows, centroids, num_nearest=4)
    scores = rows.astype(np.float64) @ centroids.T.astype(np.float64)
    scores -= 0.5 * (centroids.astype(np.float64) ** 2).sum(1)
    nearest = np.argsort(-scores, axis=1, kind="stable")[:, :4]
    assert (found.assignments != nearest[:, 0]).sum() == 0
    truth = ((rows - centroids[nearest[:, 0]]).astype(np.float64) ** 2).sum(1)
    np.testing.assert_allclose(found.distances_sq, truth, rtol=1e-5)
    assert found.nearest is not None
    assert (found.nearest == nearest).mean() > 0.999
    assert found.findings["num_audited"] == 12
    assert found.findings["num_audited_wrong"] == 0


@needs_fast_products
def test_the_recheck_is_what_makes_it_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(4)
    rows = random.normal(size=(3000, WIDE)).astype(np.float32)
    centroids = random.normal(size=(300, WIDE)).astype(np.float32) * 0.3
    scores = torch.from_numpy(rows).double() @ torch.from_numpy(centroids).double().t()
    scores -= 0.5 * torch.from_numpy(centroids).double().square().sum(1)
    nearest = scores.argmax(1).numpy()
    found = assign(rows, centroids)
    assert 100 < found.findings["num_rechecked"] < 2500
    np.testing.assert_array_equal(found.assignments, nearest)
    monkeypatch.setattr("clusterfit.worker.kmeans.exact._SAFETY", 0.0)
    hasty = assign(rows, centroids)
    assert hasty.findings["num_rechecked"] < 100
    assert (hasty.assignments != nearest).sum() > 5


def assign_in_float64(rows: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return nearest centroids, and by how much their scores are ahead, as fractions of |x|^2."""
    wide, far = rows.astype(np.float64), centroids.astype(np.float64)
    scores = wide @ far.T - 0.5 * (far**2).sum(1)
    best = np.sort(scores, axis=1)[:, -2:]
    return scores.argmax(1), (best[:, 1] - best[:, 0]) / (wide**2).sum(1)


@pytest.mark.parametrize("sampled", [slice(0, 2048, 8), slice(0, None, 16)])
def test_rows_of_another_kind_than_the_first_ones_are_assigned_exactly(sampled: slice) -> None:
    """Flat rows, then such as are rounded ten times as coarsely for their length."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(4096, 512)).astype(np.float32)
    rows[np.arange(2048, 4096), random.integers(512, size=2048)] = 60
    centroids = (random.normal(size=(300, 512)) * 0.3).astype(np.float32)
    found = TorchEngine().build_assigner(centroids, rows[sampled]).assign(rows)
    nearest, ahead = assign_in_float64(rows, centroids)
    assert (ahead[found.assignments != nearest] < 1e-6).all()
    assert found.findings["num_rechecked"] < 0.8 * len(rows), "not all of them"


def test_a_sampled_row_at_the_mean_of_the_centroids_is_one_like_others() -> None:
    random = np.random.default_rng(0)
    centroids = (random.normal(size=(300, WIDE)) * 0.3).astype(np.float32)
    rows = random.normal(size=(3000, WIDE)).astype(np.float32)
    usual = assign(rows, centroids).findings["num_rechecked"]
    rows[0] = centroids.mean(0, dtype=np.float64)
    found = assign(rows, centroids)
    assert found.findings["num_rechecked"] < 1.5 * usual + 100
    nearest, ahead = assign_in_float64(rows, centroids)
    assert (ahead[found.assignments != nearest] < 1e-6).all()


def test_the_assigned_centroid_is_listed_first_however_many_are_equal_to_it() -> None:
    rows = draw(40, WIDE)
    centroids = np.concatenate([draw(3, WIDE, seed=1), np.repeat(rows[:1], 50, axis=0)])
    found = assign(rows, centroids, num_nearest=2)
    assert found.nearest is not None
    np.testing.assert_array_equal(found.nearest[:, 0], found.assignments)
    assert found.assignments[0] == 3
    assert (found.nearest[:, 0] != found.nearest[:, 1]).all()


def test_shares_of_clusters_follow_sizes_and_never_exceed_what_there_is() -> None:
    np.testing.assert_array_equal(
        allot(np.array([60, 30, 10]), np.array([99, 99, 99]), 10), [6, 3, 1]
    )
    shares = allot(np.array([1000, 5, 5]), np.array([4, 5, 5]), 12)
    assert shares.sum() == 12
    assert (shares <= [4, 5, 5]).all()
    assert allot(np.array([7, 0, 1]), np.array([7, 0, 1]), 8).tolist() == [7, 0, 1]
