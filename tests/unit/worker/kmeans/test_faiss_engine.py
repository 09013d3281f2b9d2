"""k-means and what comes before it, against scikit-learn and one long call of faiss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from clusterfit.artifacts.manifest import Identity, write_manifest
from clusterfit.artifacts.part import part_name, write_part
from clusterfit.artifacts.parts import FeatureTable
from clusterfit.config.sections.clustering import Cluster
from clusterfit.errors import InvalidDataError, TerminatedError
from clusterfit.worker.kmeans import rows as rows_module
from clusterfit.worker.kmeans.engine import Assigned, Fit
from clusterfit.worker.kmeans.faiss_engine import FaissEngine
from clusterfit.worker.kmeans.rows import (
    Rows,
    RowSource,
    SampledRows,
    fit_projection,
    read_all,
    sample,
)

from .conftest import draw
from .conftest import settings as torch_settings

OpenTable = Callable[[np.ndarray], FeatureTable]


@pytest.fixture
def open_table(tmp_path: Path) -> OpenTable:
    """Write rows as parts of 101 and open them."""

    def open_(features: np.ndarray) -> FeatureTable:
        folder = tmp_path / f"features-{len(list(tmp_path.iterdir()))}"
        identity = Identity("extract", {}, {"data.train": "d"})
        starts = range(0, len(features), 101)
        for number, start in enumerate(starts):
            indices = np.arange(start, min(start + 101, len(features)))
            write_part(folder / part_name(number), features[indices], indices, "f", {})
        results = {"num_samples": len(features), "feature_dim": features.shape[1]}
        names = [part_name(number) for number in range(len(starts))]
        write_manifest(folder, identity, names, results, {})
        return FeatureTable(folder)

    return open_


def fit(rows: RowSource, config: Cluster, initial: np.ndarray) -> Fit:
    return FaissEngine(2).fit(rows, config, 0, Fit(initial, ()), lambda _fit: None)


def assign(rows: np.ndarray, centroids: np.ndarray, num_nearest: int = 1) -> Assigned:
    return FaissEngine(2).build_assigner(centroids, rows[:0]).assign(rows, num_nearest)


def settings(num_clusters: int = 10, num_iterations: int = 15, **others: object) -> Cluster:
    """Return the settings of faiss, over rows as they are."""
    faisss = {"engine": "faiss", "init": "random", "stop_improvement": 1e-4}
    return torch_settings(num_clusters, num_iterations, **(faisss | others))


def test_the_objective_is_scikit_learns_and_never_rises(open_table: OpenTable) -> None:
    features = draw()
    initial = features[:10].copy()
    config = settings(num_iterations=30)
    found = fit(Rows(open_table(features), config, None), config, initial)
    reference = KMeans(10, init=initial, n_init=1, algorithm="lloyd", max_iter=30, tol=0)
    reference.fit(features)
    distances_sq = assign(features, found.centroids).distances_sq
    objective = float(distances_sq.sum(dtype=np.float64))
    assert objective == pytest.approx(float(reference.inertia_), rel=1e-3)
    assert found.num_iterations == len(found.objectives) == 30
    steps = np.diff([*found.objectives, objective])
    assert (steps <= 1e-6 * objective).all()


def test_the_objective_is_the_sum_of_squared_distances_before_each_update(
    open_table: OpenTable,
) -> None:
    features = draw(200)
    initial = features[:10].copy()
    config = settings(num_iterations=1)
    found = fit(Rows(open_table(features), config, None), config, initial)
    distances = ((features[:, None].astype(np.float64) - initial[None]) ** 2).sum(-1)  # (N, K)
    [objective] = found.objectives
    assert objective == pytest.approx(distances.min(1).sum(), rel=1e-5)
    nearest = distances.argmin(1)
    means = np.stack([features[nearest == cluster].mean(0) for cluster in range(10)])
    np.testing.assert_allclose(found.centroids, means, rtol=1e-4, atol=1e-5)


def test_calls_of_one_iteration_equal_one_long_call_of_faiss(open_table: OpenTable) -> None:
    features = draw()
    initial = features[:10].copy()
    config = settings(num_iterations=7)
    found = fit(Rows(open_table(features), config, None), config, initial)
    long = faiss.Kmeans(12, 10, niter=7, seed=0, max_points_per_centroid=10**6)
    long.train(features, init_centroids=initial)
    np.testing.assert_array_equal(found.centroids, long.centroids)
    assert long.obj is not None
    np.testing.assert_allclose(np.array(found.objectives), long.obj, rtol=1e-6)


def test_a_fit_that_was_stopped_goes_on_to_the_same_end(open_table: OpenTable) -> None:
    features = draw()
    config = settings(num_iterations=8)
    rows = Rows(open_table(features), config, None)
    whole = fit(rows, config, features[:10].copy())
    reached: list[Fit] = []

    def stop_after_three(fit: Fit) -> None:
        reached.append(fit)
        if fit.num_iterations == 3:
            raise TerminatedError("stopped")

    with pytest.raises(TerminatedError):
        FaissEngine(2).fit(rows, config, 0, Fit(features[:10].copy(), ()), stop_after_three)
    resumed = FaissEngine(2).fit(rows, config, 0, reached[-1], lambda _fit: None)
    np.testing.assert_array_equal(resumed.centroids, whole.centroids)
    assert resumed.objectives == whole.objectives


def test_permuting_the_rows_permutes_the_assignments(open_table: OpenTable) -> None:
    features = draw()
    order = np.random.default_rng(3).permutation(len(features))
    config = settings()
    initial = features[:10].copy()
    assigned = []
    for part in (features, features[order]):
        found = fit(Rows(open_table(part), config, None), config, initial)
        assigned.append(assign(part, found.centroids).assignments)
    assert (assigned[0][order] == assigned[1]).mean() > 0.995


def test_each_row_gets_its_nearest_centroid(open_table: OpenTable) -> None:
    features, centroids = draw(300), draw(20, seed=1)
    found = assign(features, centroids, num_nearest=3)
    distances = ((features[:, None].astype(np.float64) - centroids[None]) ** 2).sum(-1)
    np.testing.assert_array_equal(found.assignments, distances.argmin(1))
    np.testing.assert_allclose(found.distances_sq, distances.min(1), rtol=1e-4)
    assert found.assignments.dtype == np.int64
    assert found.distances_sq.dtype == np.float32
    assert found.nearest is not None
    np.testing.assert_array_equal(found.nearest, distances.argsort(1)[:, :3])


def test_numbers_that_are_not_finite_are_refused(open_table: OpenTable) -> None:
    for bad in (np.nan, np.inf):
        features = draw(60)
        features[41, 3] = bad
        rows = Rows(open_table(features), settings(), None)
        with pytest.raises(InvalidDataError, match="not finite"):
            fit(rows, settings(), features[:10].copy())


def test_fewer_distinct_rows_than_clusters_give_numbers_all_the_same(
    open_table: OpenTable,
) -> None:
    features = np.repeat(draw(3), 20, axis=0)
    config = settings(num_clusters=8)
    found = fit(Rows(open_table(features), config, None), config, features[:8].copy())
    assigned = assign(features, found.centroids)
    assignments, distances_sq = assigned.assignments, assigned.distances_sq
    assert np.isfinite(found.centroids).all()
    assert np.isfinite(found.objectives).all()
    assert np.isfinite(distances_sq).all()
    for row in range(0, 60, 20):
        assert len(set(assignments[row : row + 20])) == 1, "equal rows share a cluster"


def test_a_sample_is_drawn_by_the_seed_and_read_in_any_pieces(open_table: OpenTable) -> None:
    rows = Rows(open_table(draw()), settings(), None)
    drawn = sample(rows, 50, seed=0)
    first = read_all(drawn)
    assert first.shape == (50, 12)
    assert len(np.unique(first, axis=0)) == 50
    pieces = [drawn.read(0, 7), drawn.read(7, 7), drawn.read(7, 50)]
    np.testing.assert_array_equal(np.concatenate(pieces), first)
    np.testing.assert_array_equal(read_all(sample(rows, 50, seed=0)), first)
    assert not np.array_equal(read_all(sample(rows, 50, seed=1)), first)
    assert sample(rows, 700, seed=0) is rows


def test_rows_are_divided_by_their_norm_and_zeros_stay_zeros(open_table: OpenTable) -> None:
    features = draw(50)
    features[7] = 0
    rows = read_all(Rows(open_table(features), settings(normalize=True), None))
    norms = np.linalg.norm(rows, axis=1)
    assert norms[7] == 0
    np.testing.assert_allclose(np.delete(norms, 7), 1, rtol=1e-6)
    np.testing.assert_allclose(rows[3], features[3] / np.linalg.norm(features[3]), rtol=1e-6)


def test_rows_taken_by_number_are_those_rows_across_chunks(
    open_table: OpenTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "CHUNK_ROWS", 64)
    features = draw(300)
    rows = Rows(open_table(features), settings(), None)
    numbers = np.array([0, 63, 64, 65, 200, 299])
    taken = SampledRows(rows, numbers).read(0, len(numbers))
    np.testing.assert_array_equal(taken, features[numbers])
    np.testing.assert_array_equal(read_all(rows), features)


@pytest.mark.parametrize("whiten", [False, True])
def test_the_projection_is_scikit_learns_pca(
    open_table: OpenTable, whiten: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to signs; scikit-learn's variances divide by N - 1, ours by N."""
    monkeypatch.setattr(rows_module, "CHUNK_ROWS", 64)
    features = draw(300) @ np.diag(np.linspace(3, 0.2, 12)).astype(np.float32) + 50
    projected = fit_projection(open_table(features), 5, whiten).apply(features)
    expected = PCA(5, svd_solver="full", whiten=whiten).fit_transform(features.astype(np.float64))
    expected *= np.sqrt(300 / 299) if whiten else 1
    expected *= np.sign((expected * projected).sum(0))
    np.testing.assert_allclose(projected, expected, atol=2e-3)
    np.testing.assert_allclose(projected.mean(0), 0, atol=1e-3)
    if whiten:
        np.testing.assert_allclose(np.cov(projected.T, bias=True), np.eye(5), atol=1e-3)


def test_a_projection_is_the_same_each_time_signs_and_all(open_table: OpenTable) -> None:
    components = fit_projection(open_table(draw(300)), 4, whiten=False).components
    largest = np.abs(components).argmax(0)
    assert (components[largest, np.arange(4)] > 0).all()


def test_more_components_than_there_are_directions_are_refused(open_table: OpenTable) -> None:
    with pytest.raises(InvalidDataError, match=r"cluster\.pcaDim: got 13, want at most 12"):
        fit_projection(open_table(draw(300)), 13, whiten=False)
    with pytest.raises(InvalidDataError, match=r"cluster\.pcaDim: got 6, want at most 5"):
        fit_projection(open_table(draw(6)), 6, whiten=False)
    flat = draw(300)
    flat[:, 4:] = flat[:, :1]
    with pytest.raises(InvalidDataError, match="vary in only 4 directions"):
        fit_projection(open_table(flat), 6, whiten=True)
