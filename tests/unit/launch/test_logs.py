"""A follow ends where nothing more will be said, and says once what all pods have in common."""

from __future__ import annotations

from typing import Any

import pytest

from clusterfit.launch.api import JOBS, PYTORCHJOBS
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
