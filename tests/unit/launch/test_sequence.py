"""Stages follow one another, and those that get nowhere are stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from clusterfit.launch.api import JOBS, PODS, PYTORCHJOBS, WORKLOADS, Api
from clusterfit.launch.bounds import MAX_EARLY_DEATHS, MAX_EARLY_FAILURES, Bounds
from clusterfit.launch.causes import Cause
from clusterfit.launch.control import resume_run
from clusterfit.launch.failures import NotPermittedError, RefusedError
from clusterfit.launch.jobs import (
    QUEUE_LABEL,
    RELEASED_ANNOTATION,
    STOPPED_ANNOTATION,
    SUPERVISOR,
    Phase,
    end_stage,
    release_stage,
    resume_stage,
    suspend_stage,
)
from clusterfit.launch.plan import Plan, PlannedStage, Release
from clusterfit.launch.sequence import Absences, find_absent, is_over, look, release_next
from clusterfit.launch.status import read_status
from clusterfit.launch.supervise import supervise
from clusterfit.launch.wait import wait_for_run

from .object_server import Objects, serve_objects

START = datetime(2026, 11, 23, 12, tzinfo=UTC)


def planned(stage: str, **changes: Any) -> PlannedStage:
    kind = "Job" if stage == "cluster" else "PyTorchJob"
    fields: dict[str, Any] = {
        "stage": stage,
        "kind": kind,
        "name": f"run-{stage}",
        "nodes": 1 if kind == "Job" else 2,
        "processes_per_node": 1,
        "gpus_per_pod": 0,
        "gpu_resource": "nvidia.com/gpu",
        "pods": () if kind == "Job" else (f"run-{stage}-worker-0", f"run-{stage}-worker-1"),
        "deadline_seconds": 0,
        "start_deadline_seconds": 0,
    }
    return PlannedStage(**(fields | changes))


def make_plan(*stages: PlannedStage, gang: str = "none") -> Plan:
    queue = "gpu" if gang == "kueue" else ""
    return Plan("run", "run-pipeline", "team", stages, gang, queue, "cluster")


def job(stage: PlannedStage, *, suspend: bool, labels: dict[str, str] | None = None) -> Any:
    metadata = {
        "name": stage.name,
        "creationTimestamp": START.isoformat(),
        "labels": labels or {},
        "uid": f"uid-of-{stage.name}",
    }
    switch = {"suspend": suspend}
    spec = switch if stage.kind == "Job" else {"runPolicy": switch}
    return {"metadata": metadata, "spec": spec, "status": {}}


def finish(objects: Objects, stage: PlannedStage, condition: str, moment: datetime = START) -> None:
    manifest = objects.get(stage.resource, stage.name)
    manifest["status"]["conditions"] = [
        {
            "type": condition,
            "status": "True",
            "message": "so it ended",
            "lastTransitionTime": moment.isoformat(),
        }
    ]


def run_pods(objects: Objects, stage: PlannedStage, number: int) -> None:
    manifest = objects.get(stage.resource, stage.name)
    counts = {"active": number}
    manifest["status"] = (
        {"ready": number} if stage.kind == "Job" else {"replicaStatuses": {"Worker": counts}}
    )


def put_pod(objects: Objects, name: str, uid: str, ended: dict[str, Any] | None = None) -> None:
    state = {"terminated": ended} if ended else {"running": {}}
    objects.put(
        PODS,
        {
            "metadata": {"name": name, "uid": uid, "labels": {}},
            "status": {"containerStatuses": [{"state": state}]},
        },
    )


@pytest.fixture
def server() -> Iterator[tuple[Api, Objects]]:
    with serve_objects() as opened:
        yield opened


EXTRACT, CLUSTER, TRAIN = planned("extract"), planned("cluster"), planned("train")
TOO_LONG = "The workload is deactivated due to exceeding the maximum execution time"


def put_workload(objects: Objects, job_name: str, *, active: bool) -> None:
    """Put what Kueue makes of a queued job; it has deactivated one that took too long."""
    kinds = ("Evicted", "True"), ("QuotaReserved", "False")
    conditions = [{"type": kind, "status": is_so, "message": TOO_LONG} for kind, is_so in kinds]
    metadata = {
        "name": "workload",
        "labels": {"kueue.x-k8s.io/job-uid": f"uid-of-{job_name}"},
        "creationTimestamp": START.isoformat(),
    }
    spec = {"active": active, "queueName": "gpu"}
    status = {"conditions": conditions}
    objects.put(WORKLOADS, {"metadata": metadata, "spec": spec, "status": status})


def test_each_stage_is_released_after_the_one_before(server: tuple[Api, Objects]) -> None:
    api, objects = server
    plan = make_plan(EXTRACT, CLUSTER, TRAIN)
    for position, stage in enumerate(plan.stages):
        objects.put(stage.resource, job(stage, suspend=position > 0))
    assert release_next(api, plan, list(look(api, plan))) is None, "extract still runs"
    finish(objects, EXTRACT, "Succeeded")
    assert release_next(api, plan, list(look(api, plan))) == CLUSTER
    released = objects.get(JOBS, CLUSTER.name)
    assert released["spec"]["suspend"] is False
    assert RELEASED_ANNOTATION in released["metadata"]["annotations"]
    assert release_next(api, plan, list(look(api, plan))) is None, "cluster runs now"
    finish(objects, CLUSTER, "Complete")
    assert release_next(api, plan, list(look(api, plan))) == TRAIN
    finish(objects, TRAIN, "Succeeded")
    assert is_over(list(look(api, plan)))


def test_a_stage_that_is_removed_after_its_turn_is_not_missed(server: tuple[Api, Objects]) -> None:
    api, objects = server
    plan = make_plan(EXTRACT, CLUSTER, TRAIN)
    objects.put(JOBS, job(CLUSTER, suspend=False))
    objects.put(PYTORCHJOBS, job(TRAIN, suspend=True))
    assert find_absent(list(look(api, plan))) is None, "cluster's turn has come"
    finish(objects, CLUSTER, "Complete")
    assert release_next(api, plan, list(look(api, plan))) == TRAIN
    finish(objects, TRAIN, "Succeeded")
    assert is_over(list(look(api, plan)))


def test_a_stage_that_was_removed_is_told_from_one_that_is_not_there_yet(
    server: tuple[Api, Objects],
) -> None:
    api, objects = server
    plan = make_plan(EXTRACT, CLUSTER)
    absences = Absences(patience_seconds=10)

    def find_removed(seconds: float) -> PlannedStage | None:
        return absences.find_removed(list(look(api, plan)), START + timedelta(seconds=seconds))

    assert find_removed(0) is None
    objects.put(PYTORCHJOBS, job(EXTRACT, suspend=False))
    assert find_removed(100) is None, "it is there now"
    finish(objects, EXTRACT, "Succeeded")
    assert find_removed(200) is None, "cluster may be made later"
    assert find_removed(209) is None
    assert find_removed(210) == CLUSTER


def test_stages_are_removed_only_once_the_release_is_over(
    server: tuple[Api, Objects], capsys: pytest.CaptureFixture[str]
) -> None:
    api, objects = server
    plan = replace(make_plan(EXTRACT, CLUSTER), ttl_seconds=60)
    for position, stage in enumerate(plan.stages):
        objects.put(stage.resource, job(stage, suspend=position > 0))
    now = datetime.now(UTC)
    finish(objects, EXTRACT, "Succeeded", now - timedelta(seconds=100))
    release_next(api, plan, list(look(api, plan)))
    assert "ttlSecondsAfterFinished" not in json.dumps(list(objects.by_path.values()))

    finish(objects, CLUSTER, "Complete", now)
    assert supervise(api, plan, poll_seconds=0.01) == 0
    assert "all stages succeeded" in capsys.readouterr().out
    first = objects.get(PYTORCHJOBS, EXTRACT.name)["spec"]["runPolicy"]["ttlSecondsAfterFinished"]
    last = objects.get(JOBS, CLUSTER.name)["spec"]["ttlSecondsAfterFinished"]
    assert (first, last) == (pytest.approx(160, abs=20), pytest.approx(60, abs=20))


@pytest.mark.parametrize("sequencing", ["cluster", "client"])
def test_a_release_in_which_a_stage_failed_is_kept_and_still_says_so(
    server: tuple[Api, Objects], sequencing: Any
) -> None:
    """What is held never ends: it would stay for ever, and wait for a stage that is gone."""
    api, objects = server
    plan = replace(make_plan(EXTRACT, CLUSTER, TRAIN), ttl_seconds=60, sequencing=sequencing)
    for position, stage in enumerate(plan.stages):
        objects.put(stage.resource, job(stage, suspend=position > 0))
    finish(objects, EXTRACT, "Succeeded", datetime.now(UTC))
    finish(objects, CLUSTER, "Failed", datetime.now(UTC))
    release = Release(plan, "", "", {}, is_helm=True)
    if sequencing == "cluster":
        assert supervise(api, plan, poll_seconds=0.01) == 0
    assert wait_for_run(api, [release], lambda _: None) == 1
    assert "ttlSecondsAfterFinished" not in json.dumps(list(objects.by_path.values()))


def test_a_release_of_which_a_stage_was_removed_is_kept(server: tuple[Api, Objects]) -> None:
    api, objects = server
    plan = replace(make_plan(EXTRACT, CLUSTER, TRAIN), ttl_seconds=60)
    objects.put(PYTORCHJOBS, job(EXTRACT, suspend=False))
    finish(objects, EXTRACT, "Succeeded", datetime.now(UTC))
    objects.put(PYTORCHJOBS, job(TRAIN, suspend=True))
    assert supervise(api, plan, poll_seconds=0.01, absence_seconds=0) == 0
    assert "ttlSecondsAfterFinished" not in json.dumps(list(objects.by_path.values()))


def test_a_client_in_charge_lets_the_stages_be_removed(server: tuple[Api, Objects]) -> None:
    api, objects = server
    objects.put(PYTORCHJOBS, job(EXTRACT, suspend=False))
    finish(objects, EXTRACT, "Succeeded", datetime.now(UTC))
    for sequencing, is_set in (("cluster", False), ("client", True)):
        plan = replace(make_plan(EXTRACT), ttl_seconds=60, sequencing=sequencing)
        assert wait_for_run(api, [Release(plan, "", "", {}, is_helm=True)], lambda _: None) == 0
        policy = objects.get(PYTORCHJOBS, EXTRACT.name)["spec"]["runPolicy"]
        assert ("ttlSecondsAfterFinished" in policy) is is_set


def test_the_supervisor_ends_where_a_stage_was_removed(
    server: tuple[Api, Objects], capsys: pytest.CaptureFixture[str]
) -> None:
    api, objects = server
    objects.put(JOBS, job(CLUSTER, suspend=True))
    plan = make_plan(EXTRACT, CLUSTER)
    assert supervise(api, plan, poll_seconds=0.01, absence_seconds=0.05) == 0
    assert "extract was removed" in capsys.readouterr().out


def test_nothing_follows_a_stage_that_failed(server: tuple[Api, Objects]) -> None:
    api, objects = server
    plan = make_plan(EXTRACT, CLUSTER)
    objects.put(PYTORCHJOBS, job(EXTRACT, suspend=False))
    objects.put(JOBS, job(CLUSTER, suspend=True))
    finish(objects, EXTRACT, "Failed")
    views = list(look(api, plan))
    assert [view.state.phase for view in views] == [Phase.FAILED, Phase.HELD]
    assert release_next(api, plan, views) is None
    assert is_over(views)


def test_an_object_that_is_not_there_yet_is_waited_for(server: tuple[Api, Objects]) -> None:
    api, objects = server
    plan = make_plan(EXTRACT, CLUSTER)
    objects.put(JOBS, job(CLUSTER, suspend=True))
    views = list(look(api, plan))
    assert views[0].state.phase is Phase.MISSING
    assert release_next(api, plan, views) is None
    assert not is_over(views)


def test_under_kueue_releasing_means_the_real_queue(server: tuple[Api, Objects]) -> None:
    api, objects = server
    plan = make_plan(EXTRACT, CLUSTER, gang="kueue")
    objects.put(PYTORCHJOBS, job(EXTRACT, suspend=True, labels={QUEUE_LABEL: "gpu"}))
    objects.put(JOBS, job(CLUSTER, suspend=True, labels={QUEUE_LABEL: "clusterfit-held"}))
    views = list(look(api, plan))
    assert [view.state.phase for view in views] == [Phase.QUEUED, Phase.HELD]
    release_stage(api, plan, CLUSTER, views[1].state)
    changed = objects.get(JOBS, CLUSTER.name)
    assert changed["metadata"]["labels"][QUEUE_LABEL] == "gpu"
    assert changed["spec"]["suspend"] is True, "Kueue switches it on when it fits"


def test_what_was_cancelled_since_the_look_is_not_released(server: tuple[Api, Objects]) -> None:
    api, objects = server
    plan = make_plan(EXTRACT, CLUSTER)
    objects.put(PYTORCHJOBS, job(EXTRACT, suspend=False))
    finish(objects, EXTRACT, "Succeeded")
    held = job(CLUSTER, suspend=True)
    held["metadata"]["resourceVersion"] = "1"
    objects.put(JOBS, held)
    views = list(look(api, plan))
    held["metadata"] |= {"resourceVersion": "2", "annotations": {STOPPED_ANNOTATION: "{}"}}
    with pytest.raises(RefusedError, match="has been modified"):
        release_next(api, plan, views)
    assert objects.get(JOBS, CLUSTER.name)["spec"]["suspend"] is True
    objects.get(JOBS, CLUSTER.name)["metadata"]["annotations"] = {}
    assert release_next(api, plan, list(look(api, plan))) == CLUSTER


def test_what_kueue_has_deactivated_is_suspended_and_resumes(server: tuple[Api, Objects]) -> None:
    api, objects = server
    release = Release(make_plan(EXTRACT, gang="kueue"), "content", START.isoformat(), {}, True)
    objects.put(PYTORCHJOBS, job(EXTRACT, suspend=True, labels={QUEUE_LABEL: "gpu"}))
    put_workload(objects, EXTRACT.name, active=False)
    (stage,) = read_status(api, "run", [release]).stages
    assert stage.phase is Phase.SUSPENDED
    assert stage.cause == Cause(f"suspended by Kueue: {TOO_LONG}", "clusterfit resume run -n team")
    assert resume_run(api, [release]) == [EXTRACT]
    assert objects.get(WORKLOADS, "workload")["spec"]["active"] is True
    (stage,) = read_status(api, "run", [release]).stages
    assert stage.phase is Phase.QUEUED
    assert stage.cause.text == "place 1 in queue gpu", "without what was said of it before"
    assert resume_run(api, [release]) == []
    # A mark that Kueue has left on it would have it deactivated at once; it makes a new one.
    put_workload(objects, EXTRACT.name, active=False)
    condemned = {"conditions": [{"type": "DeactivationTarget", "status": "True"}]}
    objects.put(WORKLOADS, {**objects.get(WORKLOADS, "workload"), "status": condemned})
    assert resume_run(api, [release]) == [EXTRACT]
    assert api.select(WORKLOADS) == []


def test_suspended_is_told_from_held_and_resumes(server: tuple[Api, Objects]) -> None:
    api, objects = server
    plan = make_plan(EXTRACT)
    objects.put(PYTORCHJOBS, job(EXTRACT, suspend=False))
    suspend_stage(api, plan, EXTRACT, "ann", "lunch")
    (view,) = look(api, plan)
    assert view.state.phase is Phase.SUSPENDED
    assert (view.state.stopped_by, view.state.message) == ("ann", "lunch")
    resume_stage(api, plan, EXTRACT)
    (view,) = look(api, plan)
    assert view.state.phase is Phase.STARTING
    assert (
        STOPPED_ANNOTATION not in objects.get(PYTORCHJOBS, EXTRACT.name)["metadata"]["annotations"]
    )


def test_suspended_by_other_means_is_no_held_stage(server: tuple[Api, Objects]) -> None:
    api, objects = server
    objects.put(PYTORCHJOBS, job(EXTRACT, suspend=True))
    (view,) = look(api, make_plan(EXTRACT))
    assert view.state.phase is Phase.SUSPENDED
    assert view.state.stopped_by == ""


@pytest.mark.parametrize("is_final", [True, False])
def test_why_a_stage_failed_is_not_why_it_was_once_stopped(
    server: tuple[Api, Objects], is_final: bool
) -> None:
    """What the supervisor has suspended may be set going by other means than ours."""
    api, objects = server
    plan = make_plan(EXTRACT)
    objects.put(PYTORCHJOBS, job(EXTRACT, suspend=False))
    if is_final:
        end_stage(api, EXTRACT, SUPERVISOR, "it could not start")
    else:
        suspend_stage(api, plan, EXTRACT, SUPERVISOR, "it could not start")
        objects.get(PYTORCHJOBS, EXTRACT.name)["spec"]["runPolicy"]["suspend"] = False
    finish(objects, EXTRACT, "Failed")
    (view,) = look(api, plan)
    assert view.state.phase is Phase.FAILED
    wanted = ("it could not start", SUPERVISOR) if is_final else ("so it ended", "")
    assert (view.state.message, view.state.stopped_by) == wanted


@pytest.mark.parametrize(("forbidden", "verb"), [("GET", "list"), ("PATCH", "patch")])
def test_where_kueues_objects_are_closed_nothing_says_that_it_was_stopped(
    server: tuple[Api, Objects], forbidden: str, verb: str
) -> None:
    api, objects = server
    plan = make_plan(EXTRACT, gang="kueue")
    objects.put(PYTORCHJOBS, job(EXTRACT, suspend=False, labels={QUEUE_LABEL: "gpu"}))
    put_workload(objects, EXTRACT.name, active=True)
    objects.look_on = lambda method, path: (
        objects.trouble.extend([403] * 20) if "/workloads" in path and method == forbidden else
        objects.trouble.clear()
    )  # fmt: skip
    with pytest.raises(NotPermittedError, match=f"{verb} workloads"):
        suspend_stage(api, plan, EXTRACT, "ann", "clusterfit suspend")
    assert STOPPED_ANNOTATION not in objects.get(PYTORCHJOBS, EXTRACT.name)["metadata"].get(
        "annotations", {}
    )


def check(bounds: Bounds, api: Api, plan: Plan, seconds: float) -> str:
    (view,) = look(api, plan)
    return bounds.check(view, START + timedelta(seconds=seconds))


def watch_extract(api: Api, objects: Objects) -> tuple[Plan, Bounds]:
    """Put a stage that was released, and return its plan and what stops it."""
    plan = make_plan(EXTRACT)
    objects.put(PYTORCHJOBS, job(EXTRACT, suspend=False))
    return plan, Bounds(api, plan)


def test_a_stage_past_its_deadline_is_suspended(server: tuple[Api, Objects]) -> None:
    api, objects = server
    stage = planned("extract", deadline_seconds=100)
    plan = make_plan(stage)
    objects.put(PYTORCHJOBS, job(stage, suspend=False))
    run_pods(objects, stage, 2)
    bounds = Bounds(api, plan)
    assert check(bounds, api, plan, 99) == ""
    assert "longer than 100 s" in check(bounds, api, plan, 101)
    stopped = objects.get(PYTORCHJOBS, stage.name)
    assert stopped["spec"]["runPolicy"]["suspend"] is True
    assert json.loads(stopped["metadata"]["annotations"][STOPPED_ANNOTATION])["by"] == "supervisor"


def test_a_part_of_the_pods_does_not_hold_gpus_for_ever(server: tuple[Api, Objects]) -> None:
    api, objects = server
    stage = planned("extract", start_deadline_seconds=60)
    plan = make_plan(stage)
    objects.put(PYTORCHJOBS, job(stage, suspend=False))
    bounds = Bounds(api, plan)
    run_pods(objects, stage, 1)
    assert check(bounds, api, plan, 50) == ""
    run_pods(objects, stage, 2)
    assert check(bounds, api, plan, 100) == "", "whole again: the count starts anew"
    run_pods(objects, stage, 1)
    assert check(bounds, api, plan, 150) == ""
    assert "only 1 of 2 pods ran for 60 s" in check(bounds, api, plan, 161)


def test_an_admitted_stage_that_cannot_start_gives_its_quota_back(
    server: tuple[Api, Objects],
) -> None:
    api, objects = server
    stage = planned("extract", start_deadline_seconds=60)
    plan = make_plan(stage, gang="kueue")
    queued = {QUEUE_LABEL: "gpu"}
    bounds = Bounds(api, plan)
    objects.put(PYTORCHJOBS, job(stage, suspend=True, labels=queued))
    assert check(bounds, api, plan, 0) == ""
    objects.put(PYTORCHJOBS, job(stage, suspend=False, labels=queued))
    assert check(bounds, api, plan, 1000) == "", "the time in the queue does not count"
    assert check(bounds, api, plan, 1059) == ""
    assert "only 0 of 2 pods ran for 60 s" in check(bounds, api, plan, 1061)
    policy = objects.get(PYTORCHJOBS, stage.name)["spec"]["runPolicy"]
    assert policy == {"suspend": False, "activeDeadlineSeconds": 1}


@pytest.mark.parametrize("gang", ["volcano", "coscheduling"])
def test_pods_of_a_pod_group_hold_nothing_while_they_wait(
    gang: Any, server: tuple[Api, Objects]
) -> None:
    api, objects = server
    stage = planned("extract", start_deadline_seconds=60)
    plan = make_plan(stage, gang=gang)
    objects.put(PYTORCHJOBS, job(stage, suspend=False))
    bounds = Bounds(api, plan)
    assert [check(bounds, api, plan, second) for second in (0, 10_000)] == ["", ""]
    run_pods(objects, stage, 1)  # one was lost, and there is no room for it any more
    assert check(bounds, api, plan, 20_000) == ""
    assert "only 1 of 2 pods ran for 60 s" in check(bounds, api, plan, 20_061)


def test_who_looks_anew_knows_of_no_time_before(server: tuple[Api, Objects]) -> None:
    """A supervisor and a worker that were evicted together, days after the release."""
    api, objects = server
    stage = planned("extract", start_deadline_seconds=60)
    plan = make_plan(stage)
    objects.put(PYTORCHJOBS, job(stage, suspend=False))
    run_pods(objects, stage, 1)
    bounds = Bounds(api, plan)
    assert check(bounds, api, plan, 100_000) == ""
    assert check(bounds, api, plan, 100_050) == ""
    assert "only 1 of 2 pods ran for 60 s" in check(bounds, api, plan, 100_061)


def test_pods_that_die_at_once_stop_the_stage(server: tuple[Api, Objects]) -> None:
    api, objects = server
    plan, bounds = watch_extract(api, objects)
    ended = {"reason": "StartError", "exitCode": 128, "message": "no such file"}
    why = ""
    for number in range(MAX_EARLY_DEATHS + 1):
        assert why == ""
        put_pod(objects, "run-extract-worker-1", f"uid-{number}", ended)
        why = check(bounds, api, plan, 5 * number)
    assert "12 pods in a row died within seconds: StartError (128): no such file" in why


@pytest.mark.parametrize("seconds", [5, 45])
def test_pods_that_their_node_refuses_stop_the_stage_with_its_reason(
    server: tuple[Api, Objects], seconds: int
) -> None:
    """However long one that has failed is left there: none of them has lived."""
    api, objects = server
    plan, bounds = watch_extract(api, objects)
    refused = {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "no devices"}
    whys = []
    for number in range(MAX_EARLY_DEATHS + 1):
        put_pod(objects, "run-extract-worker-1", f"uid-{number}")
        objects.get(PODS, "run-extract-worker-1")["status"] = refused
        moments = (seconds * number, seconds * (number + 1) - 1)
        whys += [check(bounds, api, plan, moment) for moment in moments]
    wanted = "12 pods in a row died within seconds: UnexpectedAdmissionError: no devices"
    assert list(filter(None, whys)) == [wanted]
    assert whys[-2] == wanted


def test_a_gang_that_crashes_in_three_attempts_is_left_to_end_by_itself(
    server: tuple[Api, Objects],
) -> None:
    """A node whose rank crashes loses up to two pods more each time that all meet again."""
    api, objects = server
    plan, bounds = watch_extract(api, objects)
    for number in range(3 * 3 + 1):
        put_pod(objects, "run-extract-worker-1", f"uid-{number}")
        assert check(bounds, api, plan, 5 * number) == ""


def test_a_life_begins_with_the_container_however_long_its_image_was_pulled(
    server: tuple[Api, Objects],
) -> None:
    api, objects = server
    plan, bounds = watch_extract(api, objects)
    for look_number in range(10 * MAX_EARLY_DEATHS):  # each pod a minute, without a container
        put_pod(objects, "run-extract-worker-1", f"uid-{look_number // 10}")
        pod = objects.get(PODS, "run-extract-worker-1")
        pod["status"]["containerStatuses"] = [{"state": {"waiting": {}}}]
        assert check(bounds, api, plan, 6 * look_number) == ""
    put_pod(objects, "run-extract-worker-1", "uid-last")
    why = check(bounds, api, plan, 60 * MAX_EARLY_DEATHS)
    assert "12 pods in a row died within seconds" in why


def test_pods_that_live_are_not_counted(server: tuple[Api, Objects]) -> None:
    api, objects = server
    plan, bounds = watch_extract(api, objects)
    for number in range(4 * MAX_EARLY_DEATHS):
        put_pod(objects, "run-extract-worker-0", f"uid-{number // 4}")
        assert check(bounds, api, plan, 15 * number) == ""


@pytest.mark.parametrize(
    ("lives", "wanted"), [(False, "6 pods in a row died within seconds"), (True, "")]
)
def test_a_job_whose_pods_die_at_once_is_stopped(
    lives: bool, wanted: str, server: tuple[Api, Objects]
) -> None:
    api, objects = server
    plan = make_plan(CLUSTER)
    bounds = Bounds(api, plan)
    for moment in range(0, 60 * MAX_EARLY_FAILURES + 1, 20):
        found = job(CLUSTER, suspend=False)
        found["status"] = {"failed": moment // 60, "ready": int(lives or moment % 60 == 20)}
        objects.put(JOBS, found)
        why = check(bounds, api, plan, moment)
        assert not why or moment == 60 * MAX_EARLY_FAILURES
    assert why == wanted
    assert objects.get(JOBS, CLUSTER.name)["spec"]["suspend"] is bool(wanted)


def test_under_kueue_a_hopeless_stage_is_ended(server: tuple[Api, Objects]) -> None:
    api, objects = server
    plan = make_plan(EXTRACT, gang="kueue")
    objects.put(PYTORCHJOBS, job(EXTRACT, suspend=False, labels={QUEUE_LABEL: "gpu"}))
    bounds = Bounds(api, plan)
    for number in range(MAX_EARLY_DEATHS + 1):
        put_pod(objects, "run-extract-worker-0", f"uid-{number}")
        why = check(bounds, api, plan, 5 * number)
    assert why
    policy = objects.get(PYTORCHJOBS, EXTRACT.name)["spec"]["runPolicy"]
    assert policy == {"suspend": False, "activeDeadlineSeconds": 1}


def test_the_supervisor_takes_a_release_to_its_end(
    server: tuple[Api, Objects], capsys: pytest.CaptureFixture[str]
) -> None:
    api, objects = server
    plan = make_plan(EXTRACT, CLUSTER)
    objects.put(PYTORCHJOBS, job(EXTRACT, suspend=False))
    objects.put(JOBS, job(CLUSTER, suspend=True))
    finish(objects, EXTRACT, "Succeeded")
    finish(objects, CLUSTER, "Complete")
    assert supervise(api, plan, poll_seconds=0.01) == 0
    assert "all stages succeeded" in capsys.readouterr().out
