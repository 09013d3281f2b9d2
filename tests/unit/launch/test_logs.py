"""A follow ends where nothing more will be said, and says once what all pods have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from clusterfit.launch.api import JOBS, PODS, PYTORCHJOBS
from clusterfit.launch.failures import NotFoundError
from clusterfit.launch.log_copies import EXIT_NONE
from clusterfit.launch.log_follow import follow_stage
from clusterfit.launch.logs import Wanted, read_stage
from clusterfit.launch.plan import PlannedStage, Release

from .object_server import Objects, serve_objects
from .test_sequence import job, make_plan, planned

EXTRACT, CLUSTER, TRAIN = planned("extract"), planned("cluster"), planned("train")
PLAN = make_plan(EXTRACT, CLUSTER, TRAIN)
FILES_POD = {"metadata": {}, "spec": {"containers": [{"volumeMounts": []}], "volumes": []}}
RELEASE = Release(PLAN, "", "", FILES_POD, is_helm=True)


def ended(condition: str) -> Any:
    return {"conditions": [{"type": condition, "status": "True"}]}


def put_pod(
    objects: Objects, stage: PlannedStage, name: str, second: int, code: int | None = None
) -> None:
    """Put a pod of a stage that was created in a second, and has ended where a code is given."""
    role = {"clusterfit.dev/run": "run", "app.kubernetes.io/component": "worker"}
    metadata = {
        "name": name,
        "uid": f"uid-of-{name}",
        "creationTimestamp": f"2026-11-23T12:00:{second:02}Z",
        "labels": {"clusterfit.dev/stage": stage.stage, **role},
    }
    state: Any = {"running": {}} if code is None else {"terminated": {"exitCode": code}}
    objects.put(PODS, {"metadata": metadata, "status": {"containerStatuses": [{"state": state}]}})


def say_at(second: int, text: str, rank: int = 0) -> str:
    """Return what a rank says at a moment."""
    return f"ts=2026-11-23T12:00:{second:02}.000Z level=info stage=cluster rank={rank} msg={text}"


def log_of(*lines: str) -> list[str]:
    """Return lines of ranks as the kubelet keeps them."""
    return [f"{line[3:27]} {line}" for line in lines]


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


@pytest.mark.parametrize(("first", "second"), [("a", "b"), ("b", "a")])
def test_of_a_job_that_was_tried_again_the_newest_pod_is_read(first: str, second: str) -> None:
    """A Job's pods are all of rank 0, have random names, and those that failed stay."""
    with serve_objects() as (api, objects):
        objects.put(JOBS, {**job(CLUSTER, suspend=False), "status": ended("Complete")})
        put_pod(objects, CLUSTER, f"run-cluster-{first}", 1, code=203)
        put_pod(objects, CLUSTER, f"run-cluster-{second}", 11, code=0)
        objects.logs = {
            f"run-cluster-{first}": log_of(say_at(2, "lost")),
            f"run-cluster-{second}": log_of(say_at(12, "found")),
        }
        read = [line.text for line in read_stage(api, RELEASE, CLUSTER, Wanted(), print)]
    assert read == [say_at(12, "found")]


@pytest.mark.parametrize(("first", "second"), [("a", "b"), ("b", "a")])
def test_a_follow_goes_on_in_the_pod_that_a_job_makes_after_one_that_failed(
    first: str, second: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clusterfit.launch.log_follow._POLL_SECONDS", 0.01)
    old, new = f"run-cluster-{first}", f"run-cluster-{second}"
    unread = say_at(3, "unread")
    copies = tmp_path / "run" / "logs" / "cluster"
    for attempt, lines in enumerate(([say_at(2, "one"), unread], [say_at(12, "two")]), start=1):
        path = copies / f"attempt-{attempt}" / "rank-00000.log"
        path.parent.mkdir(parents=True)
        path.write_text("".join(f"{line}\n" for line in lines))
    said: list[str] = []
    with serve_objects() as (api, objects):
        objects.storage = tmp_path

        def go_on(_method: str, path: str) -> None:
            if path.endswith(f"/{old}/log"):  # while its log is read, the next one is made
                put_pod(objects, CLUSTER, old, 1, code=203)
                put_pod(objects, CLUSTER, new, 11)
            elif path.endswith(f"/{new}/log"):
                put_pod(objects, CLUSTER, new, 11, code=0)
                objects.put(JOBS, {**job(CLUSTER, suspend=False), "status": ended("Complete")})

        objects.put(JOBS, job(CLUSTER, suspend=False))
        put_pod(objects, CLUSTER, old, 1)
        objects.logs = {old: log_of(say_at(2, "one")), new: log_of(say_at(12, "two"))}
        objects.look_on = go_on
        lines = follow_stage(api, RELEASE, CLUSTER, Wanted(), said.append)
        assert [line.text for line in lines] == [say_at(2, "one"), unread, say_at(12, "two")]
    assert said == [f"{new} was started in place of one before; its log goes on"]
