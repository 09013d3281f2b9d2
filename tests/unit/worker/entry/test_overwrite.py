"""`--overwrite` is obeyed once a submission, whatever dies in between."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.config.stages import StageName
from clusterfit.config.tree import Algorithm
from clusterfit.errors import InvalidDataError, WriteError
from clusterfit.worker.arguments import Assignment
from clusterfit.worker.entry.overwrite import is_overwrite_pending, obey_overwrite

CONFIG = Algorithm(format_version=1, name="digits")


def no_guard() -> None:
    pass


def assign(run: RunDirectory, stage: StageName, token: str) -> Assignment:
    return Assignment(stage, Path("config.json"), CONFIG, Path("data"), run, token)


@pytest.fixture
def run(run_directory: RunDirectory) -> RunDirectory:
    """A run that has finished everything."""
    for path in (
        "data/train/dataset.json",
        "pretext/manifest.json",
        "extract/l/train/manifest.json",
        "extract/l/train/part-00000.safetensors",
        "cluster/manifest.json",
    ):
        (run_directory.root / path).parent.mkdir(parents=True, exist_ok=True)
        (run_directory.root / path).write_text("{}")
    return run_directory


def list_files(run: RunDirectory) -> set[str]:
    return {path.relative_to(run.root).as_posix() for path in run.root.rglob("*") if path.is_file()}


def test_without_a_token_nothing_is_removed(run: RunDirectory) -> None:
    before = list_files(run)
    assert not is_overwrite_pending(assign(run, "extract", ""))
    obey_overwrite(assign(run, "extract", ""), no_guard)
    assert list_files(run) == before


def test_a_stage_goes_and_the_other_stages_stay(run: RunDirectory) -> None:
    before = list_files(run)
    obey_overwrite(assign(run, "cluster", "one"), no_guard)
    assert before - list_files(run) == {"cluster/manifest.json"}
    assert list_files(run) - before == {"attempts/cluster.overwrite.json"}


@pytest.mark.parametrize("stage", ["pretext", "extract"])
def test_a_stage_that_looks_at_images_lists_them_anew(run: RunDirectory, stage: StageName) -> None:
    obey_overwrite(assign(run, stage, "one"), no_guard)
    assert not run.stage(stage).exists()
    assert not (run.root / "data").exists()


def test_a_retried_pod_does_not_erase_what_its_first_attempt_did(run: RunDirectory) -> None:
    first = assign(run, "extract", "one")
    obey_overwrite(first, no_guard)
    part = run.features("l", "train") / "part-00000.safetensors"
    part.parent.mkdir(parents=True)
    part.write_text("new")
    assert not is_overwrite_pending(first)
    obey_overwrite(first, no_guard)
    assert part.read_text() == "new"

    second = replace(first, overwrite="two")
    assert is_overwrite_pending(second)
    obey_overwrite(second, no_guard)
    assert not part.exists()


def test_a_stage_that_never_ran_can_be_overwritten(run: RunDirectory) -> None:
    obey_overwrite(assign(run, "train", "one"), no_guard)
    assert not is_overwrite_pending(assign(run, "train", "one"))


def test_a_writer_that_was_succeeded_removes_nothing(run: RunDirectory) -> None:
    before = list_files(run)

    def refuse() -> None:
        raise WriteError("taken over")

    with pytest.raises(WriteError, match="taken over"):
        obey_overwrite(assign(run, "extract", "one"), refuse)
    assert list_files(run) == before


def test_a_damaged_record_is_named(run: RunDirectory) -> None:
    obey_overwrite(assign(run, "extract", "one"), no_guard)
    run.overwrite_file("extract").write_text("{")
    with pytest.raises(InvalidDataError, match=r"extract\.overwrite\.json: not valid JSON"):
        is_overwrite_pending(assign(run, "extract", "one"))
