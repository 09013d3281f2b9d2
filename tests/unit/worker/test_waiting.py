"""Ranks that have nothing left to do wait for those that have, and hear SIGTERM meanwhile."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch.distributed.distributed_c10d import PrefixStore

from clusterfit.artifacts.dataset import Samples, write_samples
from clusterfit.artifacts.layout import RunDirectory
from clusterfit.artifacts.manifest import read_manifest
from clusterfit.artifacts.owner import claim
from clusterfit.config.loading import check_values
from clusterfit.errors import TerminatedError
from clusterfit.logline import parse_line
from clusterfit.worker import distenv, log
from clusterfit.worker.arguments import Assignment
from clusterfit.worker.context import Context
from clusterfit.worker.distenv import DistEnv
from clusterfit.worker.log import Log
from clusterfit.worker.probes.multi_label import judge_layer
from clusterfit.worker.stages import extract

IMAGES = ("a/1.png", "a/2.png", "a/3.png")
CONFIG: dict[str, Any] = {
    "formatVersion": 1,
    "name": "digits",
    "device": "cpu",
    "data": {"loadersPerRank": 0},
    "extract": {
        "model": "resnet8_small", "weights": {"from": "random"}, "cropPixels": 8,
        "resizePixels": 8, "precision": "fp32",
    },
}  # fmt: skip


@pytest.fixture
def at_each_look(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What happens while a rank waits, one thing at each look, in place of time passing."""
    happenings: list[Callable[[], object]] = []

    def happen(_seconds: float) -> None:
        happenings.pop(0)()

    monkeypatch.setattr(distenv, "time", SimpleNamespace(sleep=happen))
    return happenings


def test_a_rank_waits_until_the_last_one_is_there(
    env: DistEnv, at_each_look: list[Callable[[], object]]
) -> None:
    looks: list[int] = []
    at_each_look += [lambda: None, lambda: env.store.add("key", 1), lambda: env.store.add("key", 1)]
    replace(env, world_size=3).wait_for_everyone("key", lambda: looks.append(len(at_each_look)))
    assert looks == [3, 2, 1]


def test_a_rank_that_waits_for_others_hears_sigterm(
    env: DistEnv, at_each_look: list[Callable[[], object]]
) -> None:
    at_each_look += [lambda: setattr(env.stop, "is_set", True)]
    with pytest.raises(TerminatedError):
        replace(env, world_size=2).wait_for_everyone("key", lambda: None)


def test_a_wait_ends_when_its_time_is_over(
    env: DistEnv, at_each_look: list[Callable[[], object]]
) -> None:
    at_each_look += [lambda: None] * 10
    assert not env.wait_until(lambda: False, 1.0)
    assert len(at_each_look) == 5
    assert env.wait_until(lambda: len(at_each_look) < 4, 1.0)
    assert len(at_each_look) == 3
    at_each_look += [lambda: setattr(env.stop, "is_set", True)]
    with pytest.raises(TerminatedError):
        env.wait_until(lambda: False, 1.0)


def judge_no_class(context: Context, env: DistEnv) -> dict[str, Any]:
    """Judge the only class there is, which is rank 0's, as rank 1 of 2."""
    rows, labels = np.zeros((4, 2)), np.array([[1], [1], [0], [0]])
    shared = replace(context, env=replace(env, rank=1, world_size=2))
    return judge_layer(shared, "res5avg", (rows, rows), (labels, labels), "key")


def test_a_rank_without_a_class_waits_for_those_that_fit_svms(
    context: Context, env: DistEnv, at_each_look: list[Callable[[], object]]
) -> None:
    at_each_look += [lambda: None, lambda: env.store.add("key", 1)]
    assert judge_no_class(context, env)["costs"] == [0], "what rank 0 is to add"
    assert not at_each_look


def test_a_rank_without_a_class_hears_sigterm(
    context: Context, env: DistEnv, at_each_look: list[Callable[[], object]]
) -> None:
    at_each_look += [lambda: setattr(env.stop, "is_set", True)]
    with pytest.raises(TerminatedError):
        judge_no_class(context, env)


def test_rank_0_tells_what_others_do_when_it_has_no_part_of_its_own(
    env: DistEnv,
    run_directory: RunDirectory,
    write_folder: Callable[..., Path],
    at_each_look: list[Callable[[], object]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Here the other rank is this test: it has claimed the only part, and writes it meanwhile."""
    data_root = write_folder(*IMAGES)
    write_samples(run_directory.data("train"), Samples(IMAGES, None, ()))
    config = check_values({**CONFIG, "name": run_directory.name}).algorithm()
    assignment = Assignment("extract", config, data_root, run_directory, "")
    writer = claim(run_directory, "extract", "submission")
    extract.run(Context(assignment, env, Log("extract", 0), writer))  # as one rank: the part
    folder = run_directory.features(config.extract.layer, "train")
    whole = read_manifest(folder)
    (folder / "manifest.json").unlink()
    (folder / "part-00000.safetensors").rename(folder / "aside")
    capsys.readouterr()

    def show_part() -> None:  # later than it was written, as shared file systems do
        (folder / "aside").rename(folder / "part-00000.safetensors")

    def merge(_env: DistEnv, found: Mapping[int, Any]) -> dict[int, Any]:
        assert not found
        return dict(enumerate(whole.files))

    monkeypatch.setattr(DistEnv, "merge", merge)
    clock = itertools.count(step=10)  # so that each look is worth a line
    monkeypatch.setattr(log, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    shared = replace(env, world_size=2, store=PrefixStore("second", env.store))
    shared.store.add("train/claimed", 1)
    at_each_look += [lambda: shared.store.add("train/seen", 2), lambda: None]
    at_each_look += [lambda: shared.store.add("train/written", 1), lambda: None, show_part]
    extract.run(Context(assignment, shared, Log("extract", 0), writer))
    writer.release()
    told = [parse_line(line) or {} for line in capsys.readouterr().out.splitlines()]
    done = [item["done"] for item in told if item.get("msg") == "progress"]
    assert list(dict.fromkeys(done)) == ["0", "2", "3"]
    assert read_manifest(folder) == whole
