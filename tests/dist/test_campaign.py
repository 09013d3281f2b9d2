"""Random kills of random processes at random moments: nothing is lost, doubled or left behind."""

from __future__ import annotations

import os
import random
import shutil
import signal
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from clusterfit.artifacts.files import compute_sha256
from clusterfit.logline import parse_line
from tests.chance import draw_cases

from .conftest import CONFIG
from .door import (
    Bench,
    Ending,
    Process,
    find_descendants,
    list_files,
    read_json_lines,
    wait_until,
)
from .drawn import write_drawn_features

pytestmark = pytest.mark.campaign

NUM_DISTURBANCES = 4
NUM_RANKS = 2
LATEST_SECONDS = 12.0
"""A stage takes some 8 s on two quiet cores, most of them imports."""

LONG_FIT: dict[str, Any] = {
    "cluster.init": "random",
    "cluster.numClusters": 600,
    "cluster.numCandidates": 0,
    "cluster.relaxation": 1,
    "cluster.numIterations": 100,
}
"""Some seconds of iterations over drawn features."""

PRODUCTS = {  # what must be equal to the byte
    "pretext": ["pretext/model.safetensors"],
    "extract": [f"extract/res5avg/train/part-{n:05d}.safetensors" for n in range(5)]
    + ["extract/res5avg/val/part-00000.safetensors"],
    "cluster": ["cluster/centroids.npy", "cluster/train/assignments.npy",
                "cluster/val/assignments.npy"],
    "train": ["train/model.safetensors"],
    "evaluate": ["evaluate/results.json"],
}  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The whole pipeline, left alone, its data loaded by processes of their own."""
    bench = Bench(images, tmp_path_factory.mktemp("campaign") / "runs", CONFIG).changed(
        {
            "data.loadersPerRank": 1,
            "pretext.epochs": 20,
            "pretext.checkpointEverySteps": 5,
            "train.epochs": 20,
            "train.checkpointEverySteps": 5,
            "cluster.numIterations": 400,
        }
    )
    bench.succeed("pipeline", NUM_RANKS)
    return bench


@pytest.mark.parametrize("stage", CONFIG["stages"])
def test_a_stage_disturbed_at_random_ends_as_an_undisturbed_one(
    undisturbed: Bench, stage: str
) -> None:
    ((label, chance),) = draw_cases(stage, 1)
    print(label)
    bench = undisturbed.changed({"name": f"rough-{stage}"})
    _copy_earlier_stages(undisturbed, bench, stage)
    for _ in range(NUM_DISTURBANCES):
        moment = chance.uniform(0, LATEST_SECONDS)
        number = chance.choice([signal.SIGKILL, signal.SIGTERM])
        victim = chance.choice(["cli", "entry", "rank", "all"])
        print(f"{stage}: {number.name} to {victim} after {moment:.2f} s")
        process = bench.start(stage, NUM_RANKS)
        if not process.ends_within(moment):
            _strike(process, victim, number, chance)
        ending = process.wait()
        assert ending.code in {0, 137, 143, 203}, ending.text
        wait_until(lambda: not bench.find_processes(), 20, f"no stray process after {ending.text}")

    bench.succeed(stage, NUM_RANKS)
    for product in PRODUCTS[stage]:
        ours, theirs = (each.run.root / product for each in (bench, undisturbed))
        assert compute_sha256(ours) == compute_sha256(theirs), product
    if stage in {"pretext", "train"}:
        lines = read_json_lines(bench.run.stage(stage) / "metrics.jsonl")
        assert [line["epoch"] for line in lines] == list(range(1, 21))
    verified = bench.artifacts("verify")
    assert verified.code == 0, verified.text
    assert list(bench.run.root.rglob(".*")) == []
    before = list_files(bench.run.root)
    assert 'msg="already finished"' in bench.succeed(stage, NUM_RANKS).text
    assert list_files(bench.run.root) == before


@pytest.mark.parametrize("engine", ["torch", "faiss"])
def test_a_fit_struck_at_random_ends_as_an_undisturbed_one(features: Bench, engine: str) -> None:
    ((label, chance),) = draw_cases(f"fit-{engine}", 1)
    print(label)
    write_drawn_features(features.storage_root, f"many-{engine}", 60_000)
    changes = {"inputs.features": f"many-{engine}", "cluster.engine": engine}
    long = features.changed(LONG_FIT | changes)
    calm, bench = (long.changed({"name": f"{name}-{engine}"}) for name in ("calm", "struck"))
    fit_seconds = _time_fit(calm.succeed("cluster", NUM_RANKS))
    assert fit_seconds > 1, "too short for anybody to be struck in it"
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        # What a SIGTERM has kept is the sooner done: two thirds are always there to be struck.
        moment = chance.uniform(0, fit_seconds / 3)
        victims = ["cli", "entry", "all"] + (["rank"] if number == signal.SIGKILL else [])
        victim = chance.choice(victims)  # what ranks are forked from does not hear SIGTERM
        print(f"fit: {number.name} to {victim} after {moment:.2f} of {fit_seconds:.2f} s")
        process = bench.start("cluster", NUM_RANKS)
        process.wait_for_line("msg=arithmetic")
        assert not process.ends_within(moment), process.text
        _strike(process, victim, number, chance)
        ending = process.wait()
        assert ending.code in {137, 143, 203}, ending.text
        assert "msg=finished" not in ending.text, "the fit itself was struck"
        wait_until(lambda: not bench.find_processes(), 20, f"no stray process after {ending.text}")
    finished = bench.succeed("cluster", NUM_RANKS)
    assert "msg=resumed" in finished.text
    for product in ("centroids.npy", "train/assignments.npy", "train/distances_sq.npy"):
        ours, theirs = (each.run.stage("cluster") / product for each in (bench, calm))
        assert compute_sha256(ours) == compute_sha256(theirs), product
    assert list(bench.run.root.rglob(".*")) == []


def _time_fit(ending: Ending) -> float:
    """Return the seconds from a fit's first word to the end of its stage."""
    lines = [line for line in map(parse_line, ending.lines) if line]
    first, last = (
        datetime.fromisoformat(next(line["ts"] for line in lines if line["msg"] == said))
        for said in ("arithmetic", "finished")
    )
    return (last - first).total_seconds()


def _strike(process: Process, victim: str, number: signal.Signals, chance: random.Random) -> None:
    """Send the signal to the victim, or to the nearest ancestor of it that is there already."""
    started = find_descendants(process.pid)  # entry first, then its ranks, then their loaders
    pids = {
        "cli": [process.pid],
        "entry": started[:1],
        "rank": started[1:] and [chance.choice(started[1:])],
        "all": [process.pid, *started],
    }[victim]
    for pid in pids or [process.pid]:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            print(f"{pid} had ended by itself")


def _copy_earlier_stages(source: Bench, target: Bench, stage: str) -> None:
    stages: list[str] = CONFIG["stages"]
    for name in ["data", *stages[: stages.index(stage)]]:
        shutil.copytree(source.run.root / name, target.run.root / name)
