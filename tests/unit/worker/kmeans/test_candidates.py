"""Iterations that compare each row with few centroids: what they share with Lloyd's over all."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from clusterfit.config.sections.clustering import Cluster
from clusterfit.worker.kmeans.arithmetic import choose_arithmetic
from clusterfit.worker.kmeans.assignment import Scorer
from clusterfit.worker.kmeans.candidates import is_renewed_at
from clusterfit.worker.kmeans.engine import Fit
from clusterfit.worker.kmeans.products import Factor
from clusterfit.worker.kmeans.rows import ArrayRows
from clusterfit.worker.kmeans.sums import ClusterSums
from clusterfit.worker.kmeans.torch_engine import TorchEngine

from .conftest import compute_distances, draw, iterate_lloyd, settings

WIDE = 96


def fit(rows: np.ndarray, config: Cluster, initial: np.ndarray | None = None) -> list[Fit]:
    """Return the fits that are reported, the initial one first."""
    reached: list[Fit] = [] if initial is None else [Fit(initial)]
    TorchEngine().fit(ArrayRows(rows), config, 0, reached[0] if reached else None, reached.append)
    return reached


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the rows whose candidates are listed."""
    counts: list[int] = []
    list_best = Scorer.list_best

    def note(self: Scorer, rows: Factor, num_listed: int) -> torch.Tensor:
        counts.append(len(rows))
        return list_best(self, rows, num_listed)

    monkeypatch.setattr(Scorer, "list_best", note)
    return counts


@pytest.mark.parametrize("dim", [12, WIDE])
def test_as_many_candidates_as_centroids_are_lloyds_iterations(dim: int) -> None:
    rows = draw(900, dim)
    initial = rows[:8].copy()
    centroids, objectives = iterate_lloyd(rows, initial, 9)
    found = fit(rows, settings(8, 9, num_candidates=8, relaxation=1), initial)[-1]
    tolerance = 5e-3 if dim == WIDE else 1e-5  # rows of bfloat16
    np.testing.assert_allclose(found.objectives, objectives[: found.num_iterations], rtol=tolerance)
    ends = [compute_distances(rows, each).min(1).sum() for each in (found.centroids, centroids)]
    assert ends[0] == pytest.approx(ends[1], rel=tolerance)


@pytest.mark.parametrize("num_candidates", [1, 2, 5])
@pytest.mark.parametrize("dim", [12, WIDE])
def test_the_objective_never_rises_however_few_candidates(dim: int, num_candidates: int) -> None:
    rows = draw(1501, dim, num_groups=70)
    found = fit(rows, settings(60, 20, num_candidates=num_candidates))[-1]
    objectives = [*found.objectives, compute_distances(rows, found.centroids).min(1).sum()]
    # The first ones are of the start; the rounding of the rows themselves is what is allowed for.
    assert all(later <= before * (1 + 1e-4) for before, later in pairwise(objectives))


def test_few_candidates_end_where_all_do() -> None:
    rows = draw(4000, WIDE, num_groups=1)
    few, all_of_them = (
        fit(rows, settings(80, 40, num_candidates=count))[-1].objectives for count in (16, 0)
    )
    assert few[-1] == pytest.approx(all_of_them[-1], rel=3e-3)


def test_rows_are_compared_with_all_centroids_at_ever_longer_intervals(
    listings: list[int],
) -> None:
    assert [i for i in range(64) if is_renewed_at(i)] == [0, 1, 3, 7, 15, 31, 63]
    rows = draw(2000, 12, num_groups=1)
    fit(rows, settings(100, 9, num_candidates=8))
    assert listings == [len(rows)] * 4
    listings.clear()
    fit(rows, settings(100, 9, num_candidates=0))
    assert listings == []


@pytest.mark.parametrize("rule", [{}, {"stop_improvement": 1e-3}, {"stop_churn": 0.01}])
def test_only_an_iteration_over_all_centroids_is_the_last(rule: dict[str, float]) -> None:
    rows = draw(2000, 12, num_groups=1)
    reached = fit(rows, settings(50, 400, num_candidates=2, **rule))
    assert reached[-1].is_settled
    assert reached[-1].anchor is reached[-1].previous, "it compared rows with all centroids"
    rested = [following for each, following in pairwise(reached) if each.is_resting]
    assert rested, "the last one began at the means"
    assert all(each.anchor is each.previous for each in rested)
    if not rule:
        means, _ = iterate_lloyd(rows, reached[-1].centroids, 1)
        np.testing.assert_allclose(means, reached[-1].centroids, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dim", [3, WIDE])
def test_sums_that_follow_rows_are_those_of_adding_all_anew(dim: int) -> None:
    random = torch.Generator().manual_seed(0)
    arithmetic = choose_arithmetic(torch.device("cpu"), dim)
    rows = (torch.randint(-(2**7), 2**7, (500, dim), generator=random) / 2**5).to(arithmetic.dtype)
    norms_sq = rows.float().square().sum(1)
    centroids = torch.zeros(9, dim)
    moving = ClusterSums.empty(centroids, arithmetic.device)
    before = torch.full((500,), -1)
    for _ in range(4):
        after = torch.randint(-1, 9, (500,), generator=random)
        num_moved = moving.move(rows, norms_sq, before, after, arithmetic)
        assert num_moved == (before != after).sum()
        before = after
        anew = ClusterSums.empty(centroids, arithmetic.device)
        anew.include(rows, norms_sq, after, arithmetic, (after >= 0).nonzero()[:, 0])
        for name in ("sums", "counts", "norms_sq"):
            assert torch.equal(getattr(moving, name), getattr(anew, name)), name
