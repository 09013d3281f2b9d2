"""A crash loop ends after three attempts; everything that moves forward starts the count again."""

from __future__ import annotations

import json

import pytest

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.errors import InvalidDataError, NoProgressError
from clusterfit.worker.entry.attempts import (
    Attempt,
    end_submission,
    forgive_attempt,
    plan_attempt,
    record_attempt,
)


def no_guard() -> None:
    pass


def begin(run: RunDirectory, submission: str = "one", stage: str = "train") -> Attempt:
    attempt = plan_attempt(run, stage, submission)
    record_attempt(run, stage, attempt, no_guard)
    return attempt


def write(run: RunDirectory, name: str, content: bytes = b"x") -> None:
    path = run.stage("train") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_a_fourth_attempt_from_the_same_place_is_refused(run_directory: RunDirectory) -> None:
    attempts = [begin(run_directory) for _ in range(3)]
    assert [attempt.number for attempt in attempts] == [1, 2, 3]
    assert [attempt.stalled for attempt in attempts] == [1, 2, 3]
    for _ in range(2):
        with pytest.raises(NoProgressError, match=r"log of attempt 3 \(logs/train/attempt-3\)"):
            begin(run_directory)


@pytest.mark.parametrize("name", ["checkpoints/step-000000010.pt", "part-00000.safetensors"])
def test_a_new_file_is_progress(run_directory: RunDirectory, name: str) -> None:
    for _ in range(3):
        begin(run_directory)
    write(run_directory, name)
    assert begin(run_directory).stalled == 1
    assert begin(run_directory).number == 5


def test_a_file_that_grew_is_progress(run_directory: RunDirectory) -> None:
    write(run_directory, "checkpoint.safetensors")
    for _ in range(3):
        begin(run_directory)
    write(run_directory, "checkpoint.safetensors", b"xx")
    assert begin(run_directory).stalled == 1


@pytest.mark.parametrize("name", ["metrics.jsonl", ".part-00000.0123.partial"])
def test_a_line_of_metrics_or_a_half_written_file_is_none(
    run_directory: RunDirectory, name: str
) -> None:
    for number in range(3):
        begin(run_directory)
        write(run_directory, name, b"x" * (number + 1))
    with pytest.raises(NoProgressError):
        begin(run_directory)


def test_progress_of_another_stage_does_not_count(run_directory: RunDirectory) -> None:
    for _ in range(3):
        begin(run_directory, stage="cluster")
        write(run_directory, "model.safetensors")
    with pytest.raises(NoProgressError, match="cluster: 3 attempts"):
        begin(run_directory, stage="cluster")
    assert begin(run_directory, stage="train").number == 1


def test_another_submission_begins_at_one_and_numbers_go_on(run_directory: RunDirectory) -> None:
    for _ in range(3):
        begin(run_directory)
    attempt = begin(run_directory, "two")
    assert (attempt.number, attempt.stalled) == (4, 1)


def test_the_same_submitted_again_after_it_was_given_up_begins_at_one(
    run_directory: RunDirectory,
) -> None:
    for _ in range(3):
        begin(run_directory)
    with pytest.raises(NoProgressError):
        begin(run_directory)
    end_submission(run_directory, "train", no_guard)
    attempts = [begin(run_directory) for _ in range(3)]
    assert [(attempt.number, attempt.stalled) for attempt in attempts] == [(4, 1), (5, 2), (6, 3)]
    with pytest.raises(NoProgressError):
        begin(run_directory)


def test_attempts_that_sigterm_ended_do_not_count(run_directory: RunDirectory) -> None:
    for _ in range(7):
        forgive_attempt(run_directory, "train", begin(run_directory), no_guard)
    assert [begin(run_directory).stalled for _ in range(3)] == [1, 2, 3]
    with pytest.raises(NoProgressError):
        begin(run_directory)


def test_an_attempt_that_sigterm_ended_before_it_was_recorded_does_not_count(
    run_directory: RunDirectory,
) -> None:
    for _ in range(5):
        attempt = plan_attempt(run_directory, "train", "one")
        forgive_attempt(run_directory, "train", attempt, no_guard)
    assert (attempt.number, begin(run_directory).stalled) == (5, 1)


def test_planning_an_attempt_records_nothing(run_directory: RunDirectory) -> None:
    plan_attempt(run_directory, "train", "one")
    assert not run_directory.attempts_file("train").exists()
    attempt = begin(run_directory)
    record = json.loads(run_directory.attempts_file("train").read_text())
    assert (record["number"], record["stalled"], record["submission"]) == (1, 1, "one")
    assert record["marker"] == attempt.marker


@pytest.mark.parametrize("number", [{"number": None}, {"number": "2"}, {"numbre": 2}])
def test_a_count_that_is_none_is_refused_in_one_line(
    run_directory: RunDirectory, number: dict[str, object]
) -> None:
    begin(run_directory)
    path = run_directory.attempts_file("train")
    path.write_text(json.dumps({"stalled": 1, "submission": "one", "marker": ""} | number))
    for refused in (plan_attempt, lambda *_: end_submission(run_directory, "train", no_guard)):
        with pytest.raises(InvalidDataError, match=r"train\.json: .*delete it$"):
            refused(run_directory, "train", "one")
