"""A follow ends where nothing more will be said, and says once what all pods have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from clusterfit.launch.api import JOBS, PYTORCHJOBS
from clusterfit.launch.failures import NotFoundError
from clusterfit.launch.log_copies import EXIT_NONE
from clusterfit.launch.log_follow import follow_stage
from clusterfit.launch.logs import Wanted, read_stage
from clusterfit.launch.plan import Release

from .object_server import serve_objects
from .test_sequence import job, make_plan, planned

EXTRACT, CLUSTER, TRAIN = planned("extract"), planned("cluster"), planned("train")
PLAN = make_plan(EXTRACT, CLUSTER, TRAIN)
RELEASE = Release(PLAN, "", "", {}, is_helm=True)


def ended(condition: str) -> Any:
    return {"conditions": [{"type": condition, "status": "True"}]}


@pytest.mark.parametrize("read", [follow_stage, read_stage])
def test_a_stage_whose_predecessor_failed_will_not_start(read: Any) -> None:
    said: list[str] = []
    with serve_objects() as (api, objects):
        objects.put(PYTORCHJOBS, {**job(EXTRACT, suspend=False), "status": ended("Failed")})
        objects.put(JOBS, job(CLUSTER, suspend=True))
        objects.put(PYTORCHJOBS, job(TRAIN, suspend=True))
        assert list(read(api, RELEASE, TRAIN, Wanted(()), said.append)) == []
    assert said == ["train will not start: extract failed"]


def test_pods_that_all_wait_are_spoken_of_once() -> None:
    said: list[str] = []
    with serve_objects() as (api, objects):
        objects.put(PYTORCHJOBS, job(EXTRACT, suspend=False))
        objects.put(JOBS, job(CLUSTER, suspend=True))
        objects.put(PYTORCHJOBS, job(TRAIN, suspend=True))

        def say(remark: str) -> None:
            said.append(remark)
            if remark.startswith("waiting"):  # both pods of it wait; then the stage before fails
                failed = {**job(EXTRACT, suspend=False), "status": ended("Failed")}
                objects.put(PYTORCHJOBS, failed)

        assert list(follow_stage(api, RELEASE, TRAIN, Wanted(()), say)) == []
    assert said == ["waiting for a pod of train", "train will not start: extract failed"]


@contextmanager
def the_pod(*_: Any) -> Iterator[str]:
    yield "pod"


@pytest.mark.parametrize("exit_code", [0, EXIT_NONE])
def test_a_rank_that_said_nothing_is_told_from_one_that_left_no_copy(
    monkeypatch: pytest.MonkeyPatch, exit_code: int
) -> None:
    monkeypatch.setattr("clusterfit.launch.logs.run_files_pod", the_pod)
    monkeypatch.setattr("clusterfit.launch.logs.wait_until_ended", lambda *_: exit_code)
    monkeypatch.setattr("clusterfit.launch.logs.read_lines", lambda *_, **__: iter(()))
    said: list[str] = []
    with serve_objects() as (api, objects):
        objects.put(PYTORCHJOBS, {**job(EXTRACT, suspend=False), "status": ended("Succeeded")})
        lines = read_stage(api, RELEASE, EXTRACT, Wanted((1,)), said.append)
        if exit_code:
            with pytest.raises(NotFoundError, match="nothing of stage extract is kept"):
                list(lines)
        else:
            assert list(lines) == []
            assert said[-1] == "rank 1 said nothing"
