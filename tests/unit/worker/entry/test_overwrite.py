"""`--overwrite` is obeyed once a submission, whatever dies in between, and never in vain."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from clusterfit.artifacts.dataset import Samples, read_samples, write_samples
from clusterfit.artifacts.files import write_file
from clusterfit.artifacts.layout import RunDirectory
from clusterfit.artifacts.manifest import write_manifest
from clusterfit.config.loading import check_values
from clusterfit.config.stages import StageName
from clusterfit.errors import (
    ClusterfitError,
    InvalidDataError,
    MissingInputError,
    RetryableError,
    WriteError,
)
from clusterfit.logline import parse_line
from clusterfit.worker.arguments import Assignment
from clusterfit.worker.entry.overwrite import (
    forget_samples,
    is_overwrite_pending,
    remove_artifacts,
)
from clusterfit.worker.identity import list_targets
from clusterfit.worker.log import Log

CONFIG = check_values({"formatVersion": 1, "name": "digits"}).algorithm()
SAMPLES = Samples(("train/1.png",), None, ())


def no_guard() -> None:
    pass


def assign(run: RunDirectory, stage: StageName, token: str) -> Assignment:
    return Assignment(stage, CONFIG, Path("data"), run, token)


@pytest.fixture
def run(run_directory: RunDirectory) -> RunDirectory:
    """A run that has finished three stages."""
    write_samples(run_directory.data("train"), SAMPLES)
    stages: tuple[StageName, ...] = ("pretext", "extract", "cluster")
    for stage in stages:
        for folder, identity in list_targets(assign(run_directory, stage, ""), 1):
            write_file(folder / "part-00000", b"old")
            write_manifest(folder, identity, ["part-00000"], {}, {})
    return run_directory


def list_files(run: RunDirectory) -> set[str]:
    return {path.relative_to(run.root).as_posix() for path in run.root.rglob("*") if path.is_file()}


def test_without_a_token_nothing_is_removed(run: RunDirectory, log: Log) -> None:
    before = list_files(run)
    assignment = assign(run, "extract", "")
    assert not is_overwrite_pending(assignment)
    forget_samples(assignment, no_guard)
    remove_artifacts(assignment, 1, log, no_guard)
    assert list_files(run) == before


def test_a_stage_goes_after_it_is_said_and_the_other_stages_stay(
    run: RunDirectory, log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    before = list_files(run)
    assignment = assign(run, "cluster", "one")
    forget_samples(assignment, no_guard)
    remove_artifacts(assignment, 1, log, no_guard)
    assert before - list_files(run) == {"cluster/manifest.json", "cluster/part-00000"}
    assert list_files(run) - before == {"attempts/cluster.overwrite.json"}
    told = parse_line(capsys.readouterr().out)
    assert told is not None
    assert (told["level"], told["msg"]) == ("warning", "--overwrite removes what is there")
    assert (told["removed"], told["num_files"]) == (str(run.stage("cluster")), "2")


@pytest.mark.parametrize("stage", ["pretext", "extract"])
def test_a_stage_that_a_run_begins_with_lists_the_images_anew(
    run: RunDirectory, log: Log, stage: StageName
) -> None:
    forget_samples(assign(run, stage, "one"), no_guard)
    assert not run.listings.exists()
    write_samples(run.data("train"), Samples(("train/2.png",), None, ()))
    remove_artifacts(assign(run, stage, "one"), 1, log, no_guard)
    assert not list(run.stage(stage).rglob("part-*"))
    assert read_samples(run.data("train")).paths == ("train/2.png",)


def test_features_of_other_layers_stay(run: RunDirectory, log: Log) -> None:
    other = run.features("res4", "train") / "part-00000"
    write_file(other, b"days of work")
    part = run.features("res5avg", "train") / "part-00000"
    assert part.exists()
    remove_artifacts(assign(run, "extract", "one"), 1, log, no_guard)
    assert not part.exists()
    assert other.read_bytes() == b"days of work"


def test_a_retried_pod_does_not_erase_what_its_first_attempt_did(
    run: RunDirectory, log: Log
) -> None:
    def obey(assignment: Assignment) -> None:
        forget_samples(assignment, no_guard)
        if not run.listings.exists():
            write_samples(run.data("train"), SAMPLES)
        remove_artifacts(assignment, 1, log, no_guard)

    first = assign(run, "extract", "one")
    obey(first)
    part = run.features("res5avg", "train") / "part-00000"
    write_file(part, b"new")
    assert not is_overwrite_pending(first)
    obey(first)
    assert part.read_bytes() == b"new"

    second = replace(first, overwrite="two")
    assert is_overwrite_pending(second)
    obey(second)
    assert not part.exists()


def test_a_stage_that_never_ran_can_be_overwritten(
    run: RunDirectory, log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    remove_artifacts(assign(run, "train", "one"), 1, log, no_guard)
    assert not is_overwrite_pending(assign(run, "train", "one"))
    assert capsys.readouterr().out == "", "there is nothing to say"


def test_what_could_not_be_made_again_stays(run: RunDirectory, log: Log) -> None:
    shutil.rmtree(run.stage("pretext"))
    before = list_files(run)
    assignment = replace(
        assign(run, "extract", "one"), config=CONFIG.model_copy(update={"stages": ("extract",)})
    )
    with pytest.raises(MissingInputError, match="extract needs what stage pretext writes"):
        remove_artifacts(assignment, 1, log, no_guard)
    assert list_files(run) == before
    assert is_overwrite_pending(assignment)


@pytest.mark.parametrize(("number", "kind", "wanted"), [
    (errno.EACCES, WriteError, "data/part-00000: cannot remove: Permission denied"),
    (errno.EIO, RetryableError, "data/part-00000: Input/output error; the storage is not"),
])  # fmt: skip
def test_a_removal_that_is_cut_short_leaves_nothing_false(
    run: RunDirectory, log: Log, monkeypatch: pytest.MonkeyPatch, number: int,
    kind: type[ClusterfitError], wanted: str,
) -> None:  # fmt: skip
    """A kill cannot be timed to the moment: here nothing but the first files is removed."""

    def refuse(folder: Path) -> None:
        raise OSError(number, os.strerror(number), str(folder / "part-00000"))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(kind, match=wanted):
        forget_samples(assign(run, "extract", "one"), no_guard)
    assert not (run.data("train") / "dataset.json").exists(), "so that images are listed anew"
    write_samples(run.data("train"), SAMPLES)
    with pytest.raises(kind, match=os.strerror(number)):
        remove_artifacts(assign(run, "extract", "one"), 1, log, no_guard)
    assert not (run.features("res5avg", "train") / "manifest.json").exists()
    assert is_overwrite_pending(assign(run, "extract", "one"))


def test_a_writer_that_was_succeeded_removes_nothing(run: RunDirectory, log: Log) -> None:
    before = list_files(run)

    def refuse() -> None:
        raise WriteError("taken over")

    with pytest.raises(WriteError, match="taken over"):
        forget_samples(assign(run, "extract", "one"), refuse)
    with pytest.raises(WriteError, match="taken over"):
        remove_artifacts(assign(run, "extract", "one"), 1, log, refuse)
    assert list_files(run) == before


def test_a_damaged_record_is_named(run: RunDirectory, log: Log) -> None:
    remove_artifacts(assign(run, "extract", "one"), 1, log, no_guard)
    run.overwrite_file("extract").write_text("{")
    with pytest.raises(InvalidDataError, match=r"extract\.overwrite\.json: not valid JSON"):
        is_overwrite_pending(assign(run, "extract", "one"))
