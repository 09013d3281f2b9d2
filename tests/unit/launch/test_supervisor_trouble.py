"""A stage whose turn has come, and nobody to start it: status says why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from clusterfit.launch.api import EVENTS, JOBS, PODS, PYTORCHJOBS, Api
from clusterfit.launch.plan import RELEASE_LABEL, ROLE_LABEL, RUN_LABEL, Release
from clusterfit.launch.status import StageStatus, read_status

from .object_server import CREATED, Objects, serve_objects
from .test_sequence import finish, job, make_plan, planned

EXTRACT, CLUSTER = planned("extract"), planned("cluster")
PLAN = make_plan(EXTRACT, CLUSTER)
SUPERVISOR = f"{PLAN.release}-supervisor"


@pytest.fixture
def held() -> Iterator[tuple[Api, Objects]]:
    """A run whose first stage has succeeded; the second one waits for the supervisor."""
    with serve_objects() as (api, objects):
        objects.put(PYTORCHJOBS, job(EXTRACT, suspend=False))
        finish(objects, EXTRACT, "Succeeded")
        objects.put(JOBS, job(CLUSTER, suspend=True))
        yield api, objects


def put_supervisor(objects: Objects, **status: Any) -> None:
    metadata = {"name": SUPERVISOR, "uid": "its uid", "creationTimestamp": CREATED}
    objects.put(JOBS, {"metadata": metadata, "spec": {}, "status": status})


def put_pod(objects: Objects, name: str, created: str, **status: Any) -> None:
    labels = {RUN_LABEL: PLAN.run, RELEASE_LABEL: PLAN.release, ROLE_LABEL: "supervisor"}
    metadata = {"name": name, "labels": labels, "creationTimestamp": created}
    container = {"name": "supervisor", "image": "registry.example/clusterfit:1"}
    objects.put(PODS, {"metadata": metadata, "spec": {"containers": [container]}, "status": status})


def look(api: Api) -> StageStatus:
    """Return what status says of the held stage."""
    (_, cluster) = read_status(api, "run", [Release(PLAN, "", CREATED, {}, is_helm=True)]).stages
    return cluster


UNSCHEDULABLE = {
    "type": "PodScheduled",
    "status": "False",
    "message": "0/3 nodes are available: 3 node(s) had untolerated taint {team: ml}.",
}


def test_one_that_finds_no_node(held: tuple[Api, Objects]) -> None:
    api, objects = held
    put_supervisor(objects)
    put_pod(objects, "before", "2026-11-23T11:00:00Z", phase="Failed")
    put_pod(objects, "now", CREATED, phase="Pending", conditions=[UNSCHEDULABLE])
    cause = look(api).cause
    assert cause.text.startswith("its turn has come; the supervisor, which would start it, ")
    assert "untolerated taint {team: ml}" in cause.text
    assert f"kubectl describe job {SUPERVISOR} -n team" in cause.advice


def test_one_whose_pod_is_refused(held: tuple[Api, Objects]) -> None:
    api, objects = held
    put_supervisor(objects)
    event = {
        "metadata": {"name": "event", "creationTimestamp": CREATED},
        "involvedObject": {"kind": "Job", "name": SUPERVISOR, "uid": "its uid"},
        "reason": "FailedCreate",
        "message": "pods is forbidden: exceeded quota: few",
    }
    objects.put(EVENTS, event)
    assert look(api).cause.text.endswith("does not run: pods is forbidden: exceeded quota: few")


def test_one_that_has_failed_or_was_removed(held: tuple[Api, Objects]) -> None:
    api, objects = held
    assert look(api).cause.text.endswith("does not run: its Job was removed")
    put_supervisor(objects, conditions=[{"type": "Failed", "status": "True"}])
    assert look(api).cause.text.endswith("does not run: its Job has failed")


def test_one_that_runs_is_not_spoken_of(held: tuple[Api, Objects]) -> None:
    api, objects = held
    put_supervisor(objects)
    put_pod(objects, "now", CREATED, containerStatuses=[{"state": {"running": {}}}])
    assert look(api).cause.text == "its turn has come"
