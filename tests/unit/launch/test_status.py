"""How far a stage is, until its job says that it is over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from clusterfit.launch.api import JOBS, PODS, PYTORCHJOBS, WORKLOADS
from clusterfit.launch.jobs import QUEUE_LABEL, Phase, read_state
from clusterfit.launch.plan import PlannedStage, Release
from clusterfit.launch.pods import is_lost
from clusterfit.launch.status import read_status

from .object_server import CREATED, Objects, serve_objects, worker_pod
from .test_files_pod import put_mount_failure
from .test_sequence import finish, job, make_plan, planned, put_workload, run_pods

EXTRACT, CLUSTER = planned("extract"), planned("cluster")
LINE = "ts=2026-11-23T12:00:01.000Z level=info stage=extract rank=0 msg=progress"


@pytest.mark.parametrize("code", [None, 0])
def test_progress_is_told_until_the_job_is_over(code: int | None) -> None:
    """Its pods have ended a moment before the operator sees it."""
    with serve_objects() as (api, objects):
        objects.put(PYTORCHJOBS, job(EXTRACT, suspend=False))
        run_pods(objects, EXTRACT, 2)
        for node, name in enumerate(EXTRACT.pods):
            objects.put(PODS, worker_pod(EXTRACT, name, node=node, code=code))
        said = f"{LINE} done=37 total=37 unit=images rate=9 eta_seconds=0"
        objects.logs[EXTRACT.pods[0]] = [f"2026-11-23T12:00:01.000Z {said}"]
        release = Release(make_plan(EXTRACT), "", CREATED, {}, is_helm=True)
        (stage,) = read_status(api, "run", [release]).stages
        assert stage.progress is not None
        assert (stage.progress.done, stage.progress.total) == (37, 37)
        finish(objects, EXTRACT, "Succeeded")
        (stage,) = read_status(api, "run", [release]).stages
        assert (stage.progress is None) is (code == 0), "what is over is not at work"


@pytest.mark.parametrize(("seconds", "is_off"), [(0, False), (3600, True)])
def test_a_pod_whose_node_is_off_does_not_run(seconds: int, is_off: bool) -> None:
    """Kubernetes keeps it as it was seen last; the operator waits for its name to be free."""
    deleted = (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="seconds")
    with serve_objects() as (api, objects):
        objects.put(PYTORCHJOBS, job(EXTRACT, suspend=False))
        run_pods(objects, EXTRACT, 1)
        for node, name in enumerate(EXTRACT.pods):
            pod = worker_pod(EXTRACT, name, node=node)
            pod["spec"]["nodeName"] = f"node-{node}"
            pod["metadata"] |= {"namespace": "team"} | (
                {"deletionTimestamp": deleted} if node == 0 else {}
            )
            objects.put(PODS, pod)
        release = Release(make_plan(EXTRACT), "", CREATED, {}, is_helm=True)
        (stage,) = read_status(api, "run", [release]).stages
    lost = EXTRACT.pods[0]
    assert stage.phase is (Phase.STARTING if is_off else Phase.RUNNING)
    assert stage.running_pods == (1 if is_off else 2)
    assert (f"/{lost}/log" in str(objects.requests)) is not is_off, "nobody would answer"
    if is_off:
        assert stage.cause.text == f"{lost}: its node node-0 does not say that it has ended"
        assert "kubectl delete node node-0" in stage.cause.advice
        assert f"kubectl delete pod {lost} --force -n team" in stage.cause.advice
    else:
        assert stage.cause.text == ""


@pytest.mark.parametrize(
    ("codes", "phase", "cause"),
    [
        ([None, None], Phase.RUNNING, ""),
        ([0, None], Phase.RUNNING, ""),
        ([0, 0], Phase.RUNNING, ""),
        ([None], Phase.STARTING, "1 of 2 pods run"),
        ([143, None], Phase.STARTING, "a pod has ended and starts again: exit code 143: "),
        ([65, None], Phase.STARTING, "a pod has ended: exit code 65: "),
    ],
)
@pytest.mark.parametrize("counted", [0, 1, 2])
def test_a_stage_runs_where_its_pods_do(
    codes: list[int | None], phase: Phase, cause: str, counted: int
) -> None:
    """The operator counts them a moment later."""
    with serve_objects() as (api, objects):
        objects.put(PYTORCHJOBS, job(EXTRACT, suspend=False))
        run_pods(objects, EXTRACT, counted)
        for node, code in enumerate(codes):
            objects.put(PODS, worker_pod(EXTRACT, EXTRACT.pods[node], node=node, code=code))
        release = Release(make_plan(EXTRACT), "", CREATED, {}, is_helm=True)
        (stage,) = read_status(api, "run", [release]).stages
    assert stage.phase is phase
    assert stage.cause.text.startswith(cause) if cause else not stage.cause.text


def test_what_a_node_cannot_mount_is_why_a_stage_does_not_start() -> None:
    name = EXTRACT.pods[0]
    with serve_objects() as (api, objects):
        objects.put(PYTORCHJOBS, job(EXTRACT, suspend=False))
        pod = worker_pod(EXTRACT, name)
        pod["spec"]["nodeName"] = "node"
        pod["status"] = {
            "containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]
        }
        objects.put(PODS, pod)
        put_mount_failure(objects, name)
        release = Release(make_plan(EXTRACT), "", CREATED, {}, is_helm=True)
        (stage,) = read_status(api, "run", [release]).stages
    assert stage.phase is Phase.STARTING
    assert stage.cause.text.startswith(f"{name}: its node cannot prepare it: MountVolume.SetUp")


@pytest.mark.parametrize(
    ("condition", "phase"),
    [
        ("FailureTarget", Phase.FAILED),
        ("Failed", Phase.FAILED),
        ("SuccessCriteriaMet", Phase.SUCCEEDED),
        ("Complete", Phase.SUCCEEDED),
    ],
)
def test_a_job_has_ended_when_kubernetes_has_decided_so(condition: str, phase: Phase) -> None:
    """What it decides stands a moment before its pods are gone, and cannot change any more."""
    with serve_objects() as (api, objects):
        objects.put(JOBS, job(CLUSTER, suspend=False))
        finish(objects, CLUSTER, condition)
        assert read_state(make_plan(CLUSTER), CLUSTER, api.get(JOBS, CLUSTER.name)).phase is phase


@pytest.mark.parametrize("state", ["terminated", "waiting"])
def test_a_pod_that_has_ended_is_not_lost(state: str) -> None:
    """One that a finalizer keeps is there for as long as whoever set it wants."""
    pod = worker_pod(EXTRACT, EXTRACT.pods[0])
    pod["metadata"]["deletionTimestamp"] = "2026-11-23T12:00:00Z"
    pod["spec"]["nodeName"] = "node"
    pod["status"] = {"containerStatuses": [{"state": {state: {}}}]}
    assert is_lost(pod, datetime(2026, 11, 23, 12, 0, 59, tzinfo=UTC)) is False
    assert is_lost(pod, datetime(2026, 11, 23, 12, 1, 1, tzinfo=UTC)) is (state == "waiting")


@pytest.mark.parametrize(
    ("stage", "status", "phase"),
    [
        (EXTRACT, {"replicaStatuses": {"Worker": {"active": 1}}}, Phase.STARTING),
        (EXTRACT, {"replicaStatuses": {"Worker": {"active": 1, "succeeded": 1}}}, Phase.RUNNING),
        (CLUSTER, {"active": 1}, Phase.STARTING),
        (CLUSTER, {"succeeded": 1}, Phase.RUNNING),
    ],
)
def test_pods_that_have_succeeded_are_not_missing(
    stage: PlannedStage, status: dict[str, Any], phase: Phase
) -> None:
    """Their peers may be at work for a while, and their job says a moment later that it is over."""
    found = {**job(stage, suspend=False), "status": status}
    assert read_state(make_plan(stage), stage, found).phase is phase


def put_waiting(
    objects: Objects, name: str, second: int, *conditions: str, **spec: str | int | bool
) -> None:
    """Put what Kueue makes of somebody's job, unless the specification says otherwise."""
    metadata = {
        "name": name,
        "labels": {"kueue.x-k8s.io/job-uid": f"uid-of-{name}"},
        "creationTimestamp": f"2026-11-23T12:00:{second:02}Z",
    }
    status = {"conditions": [{"type": kind, "status": "True"} for kind in conditions]}
    spec = {"queueName": "gpu", "priority": 10, **spec}
    objects.put(WORKLOADS, {"metadata": metadata, "spec": spec, "status": status})


def test_the_place_in_a_queue_counts_whoever_waits_and_goes_before() -> None:
    with serve_objects() as (api, objects):
        objects.put(PYTORCHJOBS, job(EXTRACT, suspend=True, labels={QUEUE_LABEL: "gpu"}))
        put_waiting(objects, EXTRACT.name, 5)
        put_waiting(objects, "earlier", 1)
        put_waiting(objects, "later-and-more-urgent", 9, priority=20)
        put_waiting(objects, "later", 9)
        put_waiting(objects, "earlier-and-less-urgent", 1, priority=0)
        put_waiting(objects, "admitted", 1, "QuotaReserved")
        put_waiting(objects, "over", 1, "Finished")
        put_waiting(objects, "suspended", 1, active=False)
        put_waiting(objects, "held", 1, queueName="clusterfit-held")
        release = Release(make_plan(EXTRACT, gang="kueue"), "", CREATED, {}, is_helm=True)
        (stage,) = read_status(api, "run", [release]).stages
        assert (stage.phase, stage.cause.text) == (Phase.QUEUED, "place 3 in queue gpu")


def test_who_may_not_read_kueues_objects_is_told_so() -> None:
    """And not that Kueue has taken no notice of the stage."""
    with serve_objects() as (api, objects):
        objects.put(PYTORCHJOBS, job(EXTRACT, suspend=True, labels={QUEUE_LABEL: "gpu"}))
        put_workload(objects, EXTRACT.name, active=True)
        release = Release(make_plan(EXTRACT, gang="kueue"), "", CREATED, {}, is_helm=True)
        (stage,) = read_status(api, "run", [release]).stages
        assert "cannot be read" not in stage.cause.text
        objects.look_on = lambda _method, path: (
            objects.trouble.append(403) if "/workloads" in path else None
        )
        (stage,) = read_status(api, "run", [release]).stages
        assert stage.phase is Phase.QUEUED
        unread = "queue gpu; what Kueue says of it cannot be read: "
        assert stage.cause.text.startswith(f"{unread}list workloads.kueue.x-k8s.io")
        assert "refused (403)" in stage.cause.text
