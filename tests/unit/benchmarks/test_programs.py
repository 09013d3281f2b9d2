"""Every program that is measured does what it is called, at toy size and judged in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import programs
from benchmarks.cases import CASES
from benchmarks.data import draw_initial_centroids, read_chunks, read_features
from benchmarks.judge import judge
from benchmarks.programs import Inputs

pytestmark = pytest.mark.filterwarnings("ignore")  # of the peers' own making

K = 30
FITS = sorted({side.program for case in CASES if case.task == "fit" for side in case.sides})
ASSIGNMENTS = ["faiss_flat", "super_kmeans_assign", "sklearn_assign", "torch_assign",
               "clusterfit_assign"]  # fmt: skip


@pytest.fixture
def inputs(toy_features: Path) -> Inputs:
    return Inputs(toy_features, draw_initial_centroids(toy_features, K, 0), 0, 2)


def list_options(program: str) -> list[dict[str, Any]]:
    """Return the options of every attempt that a case makes with a program."""
    found = {
        attempt.label: dict(attempt.options)
        for case in CASES
        for side in case.sides
        if side.program == program
        for attempt in side.attempts
    }
    return list(found.values())


@pytest.mark.parametrize("name", FITS)
def test_every_attempt_of_a_fit_lowers_the_objective(name: str, inputs: Inputs) -> None:
    before = judge(read_chunks(inputs.folder), inputs.centroids).objective
    program = programs.load(name)
    for options in list_options(name):
        centroids = program.run(inputs, options).result
        assert centroids is not None
        assert centroids.shape == inputs.centroids.shape
        after = judge(read_chunks(inputs.folder), centroids).objective
        assert after < 0.9 * before, options


def test_lloyd_from_the_same_start_ends_at_the_same_objective(inputs: Inputs) -> None:
    options: dict[str, dict[str, Any]] = {
        "faiss_kmeans": {"niter": 25},
        "sklearn_kmeans": {"max_iter": 25},
        "clusterfit_fit": {"iterations": 25, "init": "given"}
        | {"num_candidates": 0, "relaxation": 1},
    }
    found = [
        judge(read_chunks(inputs.folder), np.asarray(programs.load(name).run(inputs, o).result))
        for name, o in options.items()
    ]
    # bfloat16 takes another turn at a few rows; faiss and scikit-learn agree closely.
    assert found[1].objective == pytest.approx(found[0].objective, rel=1e-4)
    assert found[2].objective == pytest.approx(found[0].objective, rel=1e-2)


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_every_assignment_is_the_nearest(name: str, inputs: Inputs) -> None:
    expected = judge(read_chunks(inputs.folder), inputs.centroids).assignments
    for options in list_options(name):
        options.pop("arithmetic", None)
        assert np.array_equal(programs.load(name).run(inputs, options).result, expected)  # type: ignore[arg-type]


def test_an_assignment_without_recheck_is_nearly_that(inputs: Inputs) -> None:
    expected = judge(read_chunks(inputs.folder), inputs.centroids).assignments
    found = programs.load("clusterfit_iterate").run(inputs, {}).result
    assert found is not None
    assert 0.95 < (found == expected).mean() <= 1


@pytest.mark.parametrize("name", ["faiss_update", "torch_update", "clusterfit_update"])
def test_updates_add_up_what_they_are_given(name: str, inputs: Inputs) -> None:
    sums = programs.load(name).run(inputs, {}).result
    rows = read_features(inputs.folder)
    assignments = judge([rows], inputs.centroids).assignments
    expected = np.zeros(inputs.centroids.shape)
    np.add.at(expected, assignments, rows)
    assert sums is not None
    # Rows of clusterfit's are rounded to bfloat16, and one or two are nearest to another centroid.
    assert np.linalg.norm(sums - expected) < 0.05 * np.linalg.norm(expected)


def test_a_program_that_needs_no_rows_does_not_load_them(inputs: Inputs) -> None:
    assert not programs.load("clusterfit_fit").needs_rows
    programs.load("clusterfit_fit").run(inputs, {"iterations": 1})
    assert "rows" not in vars(inputs)
