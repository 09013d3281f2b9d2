"""A stage whose turn has come, and nobody to start it: status says why."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from clusterfit.launch.api import EVENTS, JOBS, PODS, PYTORCHJOBS, Api
from clusterfit.launch.causes import Cause
from clusterfit.launch.plan import RELEASE_LABEL, ROLE_LABEL, RUN_LABEL, Release
from clusterfit.launch.status import StageStatus, read_status
from clusterfit.launch.wait import TIMED_OUT, wait_for_run

from .object_server import CREATED, Objects, serve_objects
from .test_sequence import finish, job, make_plan, planned

EXTRACT, CLUSTER = planned("extract"), planned("cluster")
PLAN = make_plan(EXTRACT, CLUSTER)
RELEASE = Release(PLAN, "", CREATED, {}, is_helm=True)
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
    (_, cluster) = read_status(api, "run", [RELEASE]).stages
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


def test_one_that_ends_each_time_that_it_starts(held: tuple[Api, Objects]) -> None:
    api, objects = held
    put_supervisor(objects)
    killed = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    put_pod(objects, "now", CREATED, phase="Failed", containerStatuses=[{"state": killed}])
    said = "does not run: its pod has ended: killed for want of memory (OOM)"
    assert look(api).cause.text.endswith(said)


def test_one_that_has_failed_or_was_removed(held: tuple[Api, Objects]) -> None:
    api, objects = held
    assert look(api).cause.text.endswith("does not run: its Job was removed")
    put_supervisor(objects, conditions=[{"type": "Failed", "status": "True"}])
    assert look(api).cause.text.endswith("does not run: its Job has failed")


REFUSED = (
    'level=warning msg=retrying why="no permission: system:serviceaccount:team:runner may not '
    'patch jobs.batch in namespace team; ask an administrator for that verb"'
)
BEGUN, SEEN, RELEASED, AWAY = (
    "level=info msg=supervising stages=extract,cluster",
    "level=info msg=phase stage=extract phase=succeeded",
    "level=info msg=released stage=cluster",
    'level=warning msg=retrying why="no answer"',
)
STAMP = "2026-11-23T12:00:01.000Z"


@pytest.fixture
def works(held: tuple[Api, Objects]) -> tuple[Api, Objects]:
    """The same run, whose supervisor runs."""
    _, objects = held
    put_supervisor(objects)
    put_pod(objects, "now", CREATED, containerStatuses=[{"state": {"running": {}}}])
    return held


def tell(objects: Objects, *lines: str) -> None:
    """Let the supervisor say so; what is no line of ours comes from a library."""
    said = [f"ts={STAMP} {line}" if line.startswith("level=") else line for line in lines]
    objects.logs["now"] = [f"{STAMP} {line}" for line in said]


@pytest.mark.parametrize("lines", [(), (BEGUN, SEEN), (BEGUN, AWAY, SEEN, RELEASED), ("what?",)])
def test_one_that_works_is_not_spoken_of(
    works: tuple[Api, Objects], lines: tuple[str, ...]
) -> None:
    api, objects = works
    tell(objects, *lines)
    assert look(api).cause.text == "its turn has come"


@pytest.mark.parametrize(
    "lines", [(BEGUN, SEEN, REFUSED), (BEGUN, AWAY, REFUSED, SEEN), (BEGUN, REFUSED, "a warning")]
)
def test_one_that_is_refused_what_it_tries(
    works: tuple[Api, Objects], lines: tuple[str, ...]
) -> None:
    api, objects = works
    tell(objects, *lines)
    assert look(api).cause == Cause(
        "its turn has come; the supervisor, which would start it, tries again and again: no "
        "permission: system:serviceaccount:team:runner may not patch jobs.batch in namespace team; "
        "ask an administrator for that verb",
        f"see `kubectl logs job/{SUPERVISOR} -n team`",
    )


def test_one_that_has_not_looked_since_has_its_time(works: tuple[Api, Objects]) -> None:
    """What kept it before may be over: it says nothing when it is."""
    api, objects = works
    finish(objects, EXTRACT, "Succeeded", datetime.now(UTC))
    tell(objects, BEGUN, REFUSED)
    assert look(api).cause.text == "its turn has come"
    assert not [path for _, path in objects.requests if path.endswith("/log")]


def test_one_whose_log_may_not_be_read_is_not_spoken_of(
    works: tuple[Api, Objects],
) -> None:
    api, objects = works
    tell(objects, BEGUN, REFUSED)
    refuse(objects, "/log")
    assert look(api).cause.text == "its turn has come"


def refuse(objects: Objects, end: str) -> None:
    """Let the server refuse the paths that end so."""
    objects.look_on = lambda _, path: objects.trouble.append(403) if path.endswith(end) else None


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits looks, and asks, all the time."""
    monkeypatch.setattr("clusterfit.launch.wait._POLL_SECONDS", 0.001)
    monkeypatch.setattr("clusterfit.launch.wait._ASK_SECONDS", 0)


@pytest.mark.usefixtures("impatient")
def test_who_waits_learns_it_once(works: tuple[Api, Objects]) -> None:
    api, objects = works
    tell(objects, BEGUN, REFUSED)
    said: list[str] = []
    assert wait_for_run(api, [RELEASE], said.append, timeout_seconds=0.2) == TIMED_OUT
    assert said[:2] == ["extract: succeeded", "cluster: held"]
    (why, over) = said[2:]
    assert why.startswith("cluster: its turn has come; the supervisor, ")
    assert "may not patch jobs.batch" in why
    assert over.startswith("not over after ")


@pytest.mark.usefixtures("impatient")
def test_who_may_not_read_pods_waits_all_the_same(works: tuple[Api, Objects]) -> None:
    api, objects = works
    refuse(objects, "/pods")
    assert wait_for_run(api, [RELEASE], lambda _: None, timeout_seconds=0.1) == TIMED_OUT
