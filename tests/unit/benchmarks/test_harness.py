"""The harness: processes, rounds that go on, verdicts, and a report of what the results say."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from benchmarks import distributed, larger_than_memory, memory, report, wire_rank
from benchmarks.analysis import (
    compare_to_target,
    find_first_use_seconds,
    find_row,
    find_targets,
    list_rows,
    time_to_targets,
)
from benchmarks.cases import CASES, Attempt, Case, Side
from benchmarks.data import Data, draw_initial_centroids, open_features, read_chunks, read_features
from benchmarks.judge import judge
from benchmarks.machine import describe_versions
from benchmarks.measure import Results, find_best_setting, judge_outcomes, measure
from benchmarks.scale import Cluster, Problem, model_balancing, model_pass
from benchmarks.settings import BLAS_SETTINGS, build_environment
from benchmarks.tables import SECTIONS
from tests.unit.benchmarks.conftest import TOY

FAISS = Side(
    "faiss.Kmeans",
    "faiss_kmeans",
    (Attempt("warm-up", {"niter": 1}), Attempt("25 iterations", {"niter": 25})),
)
TOY_CASE = Case("toy", "fit", TOY, 20, (FAISS,))


def test_features_are_the_same_each_time_and_rows_have_norm_1(
    toy_features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.data.FOLDER", tmp_path)
    again = read_features(open_features(TOY))
    rows = read_features(toy_features)
    np.testing.assert_array_equal(again, rows)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert (rows >= 0).all()
    assert 0.2 < (rows == 0).mean() < 0.8


def test_initial_centroids_are_distinct_rows(toy_features: Path) -> None:
    rows = read_features(toy_features)
    drawn = draw_initial_centroids(toy_features, 50, 3)
    found = [int(np.flatnonzero((rows == centroid).all(1))[0]) for centroid in drawn]
    assert len(set(found)) == 50
    assert not np.array_equal(drawn, draw_initial_centroids(toy_features, 50, 4))


def test_nothing_that_a_blas_listens_to_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OMP_WAIT_POLICY", "MKL_CBWR"):
        monkeypatch.setenv(name, "x")
    assert build_environment("default", 3, "/cache")["OMP_NUM_THREADS"] == "3"
    for setting, variables in BLAS_SETTINGS.items():
        environment = build_environment(setting, 3, "/cache")
        assert {k: v for k, v in environment.items() if k.startswith("OPENBLAS")} == variables
        assert "OMP_WAIT_POLICY" not in environment
        assert environment["PATH"] == os.environ["PATH"]


def test_without_git_the_version_stands_for_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert describe_versions()["clusterfit"] == version("clusterfit")


def test_a_case_is_measured_in_processes_judged_and_goes_on(toy_folders: Path) -> None:
    measure(TOY_CASE, 1, folder=toy_folders)
    judge_outcomes(TOY_CASE, toy_folders)
    [record] = Results("toy", toy_folders).records
    assert [attempt["label"] for attempt in record["attempts"]] == ["warm-up", "25 iterations"]
    assert record["peak_bytes"] > 50e6
    start = draw_initial_centroids(open_features(TOY), 20, 0)
    first = judge(read_chunks(open_features(TOY)), start).objective
    objectives = [attempt["objective"] for attempt in record["attempts"]]
    assert first > objectives[0] > objectives[1]
    # What faiss says of the start is what the judge says of it.
    assert record["attempts"][1]["trace"][0][1] == pytest.approx(first, rel=1e-4)
    assert not list(toy_folders.parent.glob("outcomes/toy/**/*.npy")), "judged and deleted"
    measure(TOY_CASE, 1, folder=toy_folders)
    assert Results("toy", toy_folders).records == [record], "nothing is measured twice"


def test_a_peak_is_the_side_s_own_and_not_that_of_who_started_it(toy_folders: Path) -> None:
    fat = np.ones(1 << 27)
    measure(TOY_CASE, 1, folder=toy_folders)
    [record] = Results("toy", toy_folders).records
    assert 50e6 < record["peak_bytes"] < fat.nbytes


def test_a_side_that_fails_is_recorded_with_its_last_words(toy_folders: Path) -> None:
    broken = replace(FAISS, attempts=(Attempt("x", {"no_such_option": 1}),))
    measure(replace(TOY_CASE, sides=(broken,)), 1, folder=toy_folders)
    [record] = Results("toy", toy_folders).records
    assert record["attempts"] == []
    assert "no_such_option" in record["error"]
    assert list_rows([record]) == []


@pytest.mark.parametrize(
    "other", [{"shape": [2, 1, 1]}, {"data": "digits-1x1"}, {"machine": {"cores": 4}}]
)
def test_records_of_something_else_are_dropped(tmp_path: Path, other: dict[str, object]) -> None:
    of = {"machine": {"cores": 2}, "data": "relu-1x1", "shape": [1, 1, 1]}
    results = Results("toy", tmp_path)
    results.begin(of)
    results.records.append({"side": "x"})
    results.save()
    again = Results("toy", tmp_path)
    again.begin(of)
    assert len(again.records) == 1
    again.begin(of | other)
    assert again.records == []


def make_record(side: str, number: int, *attempts: tuple[str, float, float]) -> dict[str, object]:
    return {
        "side": side, "setting": "best" if side.startswith("faiss") else "default",
        "blas": "Zen", "round": number, "peak_bytes": 1,
        "attempts": [{"label": w, "seconds": s, "objective": o} for w, s, o in attempts],
    }  # fmt: skip


def test_sides_are_compared_at_the_target_of_each_round() -> None:
    records = [
        make_record("faiss.Kmeans", 0, ("warm-up", 1, 200), ("25 iterations", 10, 100)),
        make_record("faiss.Kmeans", 1, ("warm-up", 1, 200), ("25 iterations", 12, 110)),
        make_record("clusterfit", 0, ("1 full", 9, 105), ("1 full", 1, 105), ("2 full", 2, 99)),
        make_record("clusterfit", 1, ("1 full", 9, 105), ("1 full", 1, 105), ("2 full", 2, 99)),
        make_record("other", 0, ("a", 1, 101), ("b", 3, 101)),
    ]
    rows = list_rows(records)
    targets = find_targets(rows)
    assert targets == {0: 100, 1: 110}
    ours = find_row(rows, "clusterfit", "default")
    assert time_to_targets(ours, targets) == {0: 2, 1: 1}
    assert time_to_targets(find_row(rows, "other", "default"), targets) == {}
    ratio = compare_to_target(find_row(rows, "faiss.Kmeans", "best"), ours, targets)
    assert ratio is not None
    assert (ratio.low, ratio.median, ratio.high) == (5, 8.5, 12)
    assert compare_to_target(find_row(rows, "other", "default"), ours, targets) is None
    first = find_first_use_seconds(ours)
    assert first is not None
    assert first.median == 8
    assert find_first_use_seconds(find_row(rows, "other", "default")) is None


def test_the_best_setting_is_that_with_the_shortest_call(tmp_path: Path) -> None:
    results = Results("blas", tmp_path)
    for setting, seconds in (("default", [5, 9]), ("Zen", [4, 4]), ("Haswell", [3, 8])):
        for number, warm in enumerate(seconds):
            attempts = [{"label": "w", "seconds": 30.0}, {"label": "assign", "seconds": warm}]
            results.records.append(
                {"side": "faiss IndexFlatL2", "setting": setting, "round": number,
                 "attempts": attempts}
            )  # fmt: skip
    results.save()
    assert find_best_setting("faiss", tmp_path) == "Haswell"
    with pytest.raises(SystemExit, match="measure the case blas first"):
        find_best_setting("scikit-learn", tmp_path)


@pytest.mark.campaign
@pytest.mark.skipif(bool(distributed.find_obstacle()), reason=distributed.find_obstacle())
@pytest.mark.parametrize(
    "program",
    ["clusterfit", "demo", "gather"],
)
def test_ranks_tell_what_they_send(program: str, toy_folders: Path) -> None:
    case = Case("distributed", "fit", TOY, 20, ())
    record = distributed._run(case, program, 2, 0)
    assert "error" not in record, record
    start = draw_initial_centroids(open_features(TOY), 20, 0)
    centroids = np.load(record["attempts"][0]["outcome"])
    assert not np.array_equal(centroids, start)
    numbers = 20 * TOY.dim
    sent = float(np.median(record["sent_bytes"]))
    # At least one message of the centroids' size; rows are 45 times as many numbers.
    assert sent > 4 * numbers
    if program == "gather":
        assert sent > 4 * TOY.dim * TOY.num_rows / 2
    else:
        assert sent < 6 * 8 * numbers + 40 * TOY.num_rows


def test_loopback_is_counted() -> None:
    assert wire_rank.read_sent_bytes() >= 0


@pytest.mark.skipif(bool(memory.find_obstacle()), reason=memory.find_obstacle())
def test_a_process_over_the_limit_is_ended_and_said_so(toy_folders: Path) -> None:
    [side] = [side for side in larger_than_memory.CASE.sides if side.name == "clusterfit"]
    record = larger_than_memory._run(TOY_CASE, side, 0, 24 << 20)
    assert record["attempts"] == []
    assert record["exit_code"] != 0
    assert record["group_peak_bytes"] <= 24 << 20
    assert not list(Path("/sys/fs/cgroup").glob(f"**/clusterfit-bench-{os.getpid()}"))


def test_the_model_on_paper_agrees_with_the_hand() -> None:
    one = model_pass(
        Problem(1e9, 1024, 1_000_000),
        Cluster(flops=500e12, memory_bytes=80e9, node_link_bytes=50e9),
    )
    assert one.assignment_seconds == pytest.approx(2 * 1e9 * 1024 * 1e6 / 32 / 500e12)
    assert one.state_bytes == pytest.approx(1e6 * 1024 * 24)
    assert one.rows_bytes == pytest.approx(1e9 / 32 * (2048 + 12))
    assert one.sent_bytes == pytest.approx(2 * 0.75 * 1e6 * 1024 * 8)
    assert not one.is_resident
    assert model_pass(Problem(1e9, 1024, 1_000_000), Cluster(memory_bytes=141e9)).is_resident


def test_what_a_limit_of_sizes_adds_is_passes_and_digits_of_bids() -> None:
    problem, cluster = Problem(1e9, 1024, 1_000_000), Cluster(node_link_bytes=50e9)
    found = model_balancing(problem, cluster, iterations=10, rounds=300)
    assert found.pass_seconds == 12 * model_pass(problem, cluster).seconds
    assert found.round_bytes == pytest.approx(2 * 0.75 * 1e6 * (2 + 5 * 16) * 8)
    assert found.exchange_seconds == pytest.approx(11 * 300 * found.round_bytes / 50e9)
    assert found.lists_bytes == pytest.approx(1e9 / 32 * 300)


def test_the_committed_page_is_what_the_committed_results_say() -> None:
    assert report.find_stale() == []


def test_a_page_that_was_changed_by_hand_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report, "PAGE", tmp_path / "docs" / "benchmarks.md")
    monkeypatch.setattr(report, "IMAGES", tmp_path / "docs" / "images")
    report.write()
    assert report.find_stale() == []
    report.PAGE.write_text(report.PAGE.read_text().replace("x 2,048", "x 2,047", 1))
    report.IMAGES.mkdir(exist_ok=True)
    (report.IMAGES / "benchmarks-old.svg").write_text("<svg/>")
    assert report.find_stale() == ["docs/benchmarks.md", "docs/images/benchmarks-old.svg"]


def _group_cases() -> list[list[Case]]:
    """Return the cases by their sides: at the same size and on the same data they are one."""
    groups: list[list[Case]] = []
    for case in CASES:
        for group in groups:
            if (group[0].task, group[0].sides) == (case.task, case.sides):
                group.append(case)
                break
        else:
            groups.append([case])
    return groups


@pytest.mark.campaign
@pytest.mark.parametrize("cases", _group_cases(), ids=lambda cases: cases[0].name)
def test_every_case_runs_at_toy_size(cases: list[Case], toy_folders: Path) -> None:
    [blas] = [c for c in CASES if c.name == "blas"]
    shape = TOY.num_rows, TOY.dim, 20
    measure(blas.scaled(*shape), 1, folder=toy_folders)
    small = cases[0].scaled(*shape)
    measure(small, 1, folder=toy_folders)
    judge_outcomes(small, toy_folders, say=lambda _line: None)
    content = json.loads(Results(small.name, toy_folders).path.read_text())
    errors = [record["error"] for record in content["records"] if "error" in record]
    assert not errors
    for case in cases:
        assert SECTIONS[case.name](content).count("\n") > len(small.sides)


def test_the_data_of_every_case_is_named_by_its_shape() -> None:
    assert Data("relu", 5, 3).name == "relu-5x3"
