"""`clusterfit run`: what the local door is handed."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterfit.config.stages import StageName
from clusterfit.launch import local
from clusterfit.launch.local import LocalRun

from .conftest import RunCommand

RUN_FILE = "formatVersion: 1\nname: digits\ndevice: cpu\ncluster: {numClusters: 10}\n"


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[LocalRun, tuple[StageName, ...]]]:
    """What was to be run; nothing is."""
    runs = []

    def note(run: LocalRun, stages: tuple[StageName, ...], _show: Callable[[str], None]) -> int:
        runs.append((run, stages))
        return 0

    monkeypatch.setattr(local, "run_stages", note)
    return runs


@pytest.mark.parametrize(("step", "stages"), [
    ("pipeline", ("extract", "cluster")),
    ("step1", ("extract", "cluster")),
    ("cluster", ("cluster",)),
    ("step2", ("train",)),
])  # fmt: skip
def test_any_step_of_a_run_file_from_standard_input(
    run_command: RunCommand, handed: list[tuple[LocalRun, tuple[StageName, ...]]],
    monkeypatch: pytest.MonkeyPatch, step: str, stages: tuple[StageName, ...],
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(RUN_FILE.encode())))
    ending = run_command("run", step, "-f", "-", "--set", "cluster.numIterations=3")
    assert (ending.code, ending.err) == (0, "")
    [(run, run_stages)] = handed
    assert run_stages == run.config.stages == stages
    assert (run.config.cluster.num_clusters, run.config.cluster.num_iterations) == (10, 3)
    assert run.data_root == Path()


def test_a_step_that_the_file_does_not_list_is_held_against_the_file(
    run_command: RunCommand, handed: list[object], tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text(RUN_FILE)
    ending = run_command("run", "evaluate", "-f", "run.yaml")
    assert (ending.code, handed) == (64, [])
    assert "data.val: missing" in ending.err


def test_only_what_is_to_be_done_is_judged(
    run_command: RunCommand, handed: list[tuple[LocalRun, object]], tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text(RUN_FILE)
    other = ("-f", "run.yaml", "--set", 'inputs.features="other"')
    refused = run_command("run", "pipeline", *other)
    assert (refused.code, handed) == (64, [])
    assert "inputs.features" in refused.err, "it extracts features itself"
    assert run_command("run", "cluster", *other).code == 0
    assert [run.config.inputs.features for run, _ in handed] == ["other"]
