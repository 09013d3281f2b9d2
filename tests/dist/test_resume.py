"""A training that is killed, stopped and resumed ends in the bits of one that was left alone.

With three ranks: two hide that DDP changes the order of its sums after the first backward.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from clusterfit.artifacts.files import compute_sha256

from .conftest import CONFIG
from .door import Bench, Ending, find_descendants, read_json_lines, wait_until

NUM_RANKS = 3
# Of two steps of 24 images each: enough to be disturbed in, and bf16 is slow on most CPUs.
EPOCHS = {"bf16": 9, "fp32": 14}


@pytest.fixture(
    scope="module",
    params=[
        "train in bf16",
        pytest.param("train in fp32", marks=pytest.mark.campaign),
        pytest.param("pretext in fp32", marks=pytest.mark.campaign),
    ],
)
def recipe(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Return (stage, precision)."""
    stage, _, precision = request.param.partition(" in ")
    return stage, precision


@pytest.fixture(scope="module")
def stage(recipe: tuple[str, str]) -> str:
    return recipe[0]


@pytest.fixture(scope="module")
def undisturbed(
    images: Path, tmp_path_factory: pytest.TempPathFactory, recipe: tuple[str, str]
) -> Bench:
    """The training, left alone; clusters to train on are made of random features."""
    stage, precision = recipe
    root = tmp_path_factory.mktemp("resume") / "runs"
    earlier = ["extract", "cluster"] if stage == "train" else []
    changes: dict[str, Any] = {
        "name": "calm",
        "stages": [*earlier, stage],
        "extract.weights": {"from": "random"},
    }
    recipe_changes = {"precision": precision, "epochs": EPOCHS[precision]}
    changes |= {f"{stage}.{key}": value for key, value in recipe_changes.items()}
    changes[f"{stage}.checkpointEverySteps"] = 3
    bench = Bench(images, root, CONFIG).changed(changes)
    bench.succeed("pipeline", NUM_RANKS)
    return bench


class Disturbed:
    """The training again, disturbed twice and then left alone."""

    def __init__(self, bench: Bench, stage: str) -> None:
        self.bench = bench
        self._stage = stage
        self._checkpoints = bench.run.stage(stage) / "checkpoints"

        process = bench.start(stage, NUM_RANKS)
        assert process.wait_until(lambda: self._last_step() >= 3), process.text
        process.send(signal.SIGKILL)  # to `clusterfit run` alone: the others die of it
        self.cli_killed = process.wait()
        wait_until(lambda: not bench.find_processes(), 10, "the workers of a killed CLI end")

        process = bench.start(stage, NUM_RANKS)
        process.wait_for_line("msg=resumed")
        last = self._last_step()
        assert process.wait_until(lambda: self._last_step() > last), process.text
        number = signal.SIGTERM if stage == "train" else signal.SIGINT
        for pid in [process.pid, *find_descendants(process.pid)]:  # as a service manager does
            os.kill(pid, number)
        self.stopped = process.wait()
        self.stopped_at = self._last_step()
        self.elsewhere = bench.execute(stage, NUM_RANKS - 1)
        self.finished = bench.execute(stage, NUM_RANKS)

    def _last_step(self) -> int:
        steps = [int(path.stem.removeprefix("step-")) for path in self._checkpoints.glob("step-*")]
        return max(steps, default=0)


@pytest.fixture(scope="module")
def disturbed(undisturbed: Bench, stage: str) -> Disturbed:
    rough = undisturbed.changed({"name": "rough", "data.loadersPerRank": 1})
    shutil.copytree(undisturbed.run.root, rough.run.root)
    shutil.rmtree(rough.run.stage(stage))
    return Disturbed(rough, stage)


def test_the_weights_are_those_of_the_undisturbed_training_bit_for_bit(
    undisturbed: Bench, disturbed: Disturbed, stage: str
) -> None:
    assert disturbed.finished.code == 0, disturbed.finished.text
    ours, theirs = (
        compute_sha256(bench.run.backbone(stage)) for bench in (disturbed.bench, undisturbed)
    )
    assert ours == theirs


def test_metrics_hold_each_epoch_once_and_as_the_undisturbed_training_does(
    undisturbed: Bench, disturbed: Disturbed, recipe: tuple[str, str]
) -> None:
    stage, precision = recipe
    ours, theirs = (
        read_json_lines(bench.run.stage(stage) / "metrics.jsonl")
        for bench in (disturbed.bench, undisturbed)
    )
    assert [line["epoch"] for line in ours] == list(range(1, EPOCHS[precision] + 1))
    for mine, its in zip(ours, theirs, strict=True):
        del mine["images_per_second"], its["images_per_second"]
        assert mine == pytest.approx(its, rel=1e-9)


def test_a_killed_cli_takes_its_workers_with_it_and_the_next_run_goes_on(
    disturbed: Disturbed,
) -> None:
    assert disturbed.cli_killed.code == 128 + signal.SIGKILL
    assert "msg=resumed" in disturbed.stopped.text
    assert "msg=resumed" in disturbed.finished.text


def test_sigterm_writes_a_checkpoint_and_says_so_without_a_traceback(disturbed: Disturbed) -> None:
    assert disturbed.stopped.code == 143, disturbed.stopped.text
    assert f"stopped by SIGTERM after step {disturbed.stopped_at}" in disturbed.stopped.text
    assert "Traceback" not in disturbed.stopped.text
    assert disturbed.stopped.faults() == []  # being stopped is nobody's fault


def test_another_world_size_is_refused_by_its_global_batch(
    disturbed: Disturbed, stage: str
) -> None:
    fault = disturbed.elsewhere.explain(65)
    assert f"{stage}.globalBatchSize was 24, now 16" in fault


def test_disturbed_trainings_leave_nothing_behind(disturbed: Disturbed, stage: str) -> None:
    folder = disturbed.bench.run.stage(stage)
    assert len(list((folder / "checkpoints").glob("*"))) <= 2
    assert list(disturbed.bench.run.root.rglob(".*")) == []
    verified: Ending = disturbed.bench.artifacts("verify")
    assert verified.code == 0, verified.text
