"""The state of a stage's job, PyTorchJob and Job alike, and what clusterfit changes in it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from clusterfit.launch.api import WORKLOADS, Api, Resource
from clusterfit.launch.failures import ClusterError
from clusterfit.launch.manifests import Manifest
from clusterfit.launch.plan import RUN_LABEL, Plan, PlannedStage

HELD_QUEUE: Final = "clusterfit-held"
"""A queue that does not exist: Kueue leaves a job with this label alone, whatever its defaults."""

QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"
RELEASED_ANNOTATION: Final = "clusterfit.dev/released"
"""When a held or suspended stage was last set going, in RFC 3339."""
STOPPED_ANNOTATION: Final = "clusterfit.dev/stopped"
"""Why and by whom a stage was stopped, as JSON."""


SUPERVISOR: Final = "supervisor"
KUEUE: Final = "Kueue"
CANCELLED: Final = "clusterfit cancel"
"""Who stops a stage that gets nowhere, and why a cancelled one was stopped."""


class Phase(StrEnum):
    """Where a stage stands."""

    MISSING = "missing"
    """Its job does not exist: not yet, or no longer."""
    HELD = "held"
    """It waits for the stages before it."""
    QUEUED = "queued"
    """It waits in a Kueue queue."""
    STARTING = "starting"
    """Not all of its pods run."""
    RUNNING = "running"
    SUSPENDED = "suspended"
    """It was stopped and can be resumed."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """Whether nothing will happen any more."""
        return self in (Phase.SUCCEEDED, Phase.FAILED)


@dataclass(frozen=True, slots=True)
class JobState:
    """What a stage's job says of itself."""

    phase: Phase
    running_pods: int = 0
    failed_pods: int = 0
    """Pods that have failed so far, as far as the job counts them."""
    released: str = ""
    """When it was set going, in RFC 3339."""
    finished: str = ""
    message: str = ""
    """Why it failed or was stopped, in the words of whoever did that."""
    stopped_by: str = ""
    """The supervisor, Kueue, a user, or empty where nobody has, or by other means."""
    version: str = ""
    """Of the job that was read, as Kubernetes counts its changes."""

    @property
    def is_given_up(self) -> bool:
        """Whether it was stopped for getting nowhere, or cancelled: nobody means to resume it."""
        was_given_up = self.stopped_by in (SUPERVISOR, KUEUE) or self.message == CANCELLED
        return self.phase is Phase.SUSPENDED and was_given_up


def read_state(plan: Plan, stage: PlannedStage, job: Manifest | None) -> JobState:
    """Return the state of a stage whose job was read."""
    if job is None:
        return JobState(Phase.MISSING)
    version = str(job["metadata"].get("resourceVersion", ""))
    return replace(_read_job(plan, stage, job), version=version)


def _read_job(plan: Plan, stage: PlannedStage, job: Manifest) -> JobState:
    status = job.get("status") or {}
    metadata = job["metadata"]
    annotations = metadata.get("annotations") or {}
    is_first = stage.name == plan.stages[0].name
    released = annotations.get(RELEASED_ANNOTATION, "")
    if is_first and not released:
        released = metadata.get("creationTimestamp", "")
    running, failed = _count_pods(stage, status)
    stopped = json.loads(annotations.get(STOPPED_ANNOTATION, "{}"))
    conditions = {
        item["type"]: item for item in status.get("conditions", ()) if item["status"] == "True"
    }
    for kinds, phase in (
        (("Failed", "FailureTarget"), Phase.FAILED),
        (("Succeeded", "Complete", "SuccessCriteriaMet"), Phase.SUCCEEDED),
    ):
        for kind in kinds:
            if kind in conditions:
                found = conditions[kind]
                if phase is Phase.FAILED and not stopped.get("final"):
                    stopped = {}  # it went on after that, and has failed of something else
                return JobState(
                    phase,
                    failed_pods=failed,
                    released=released,
                    finished=found.get("lastTransitionTime", ""),
                    message=stopped.get("why", "") or found.get("message", ""),
                    stopped_by=stopped.get("by", ""),
                )
    if not is_suspended(stage, job):
        is_whole = running + _count_succeeded(stage, status) >= stage.nodes
        phase = Phase.RUNNING if is_whole else Phase.STARTING
        return JobState(phase, running, failed, released)
    if stopped:
        return JobState(
            Phase.SUSPENDED, running, failed, released, "", stopped["why"], stopped["by"]
        )
    queue = (metadata.get("labels") or {}).get(QUEUE_LABEL, "")
    if queue and queue != HELD_QUEUE:
        return JobState(Phase.QUEUED, running, failed, released)
    if queue == HELD_QUEUE or not released:
        return JobState(Phase.HELD)
    return JobState(Phase.SUSPENDED, running, failed, released)


def see_pods(state: JobState, *, is_whole: bool) -> JobState:
    """Return a state with what the pods themselves show: whether as many run as are wanted.

    Whoever keeps the job counts them a moment later than their nodes do.
    """
    if state.phase not in (Phase.STARTING, Phase.RUNNING):
        return state
    return replace(state, phase=Phase.RUNNING if is_whole else Phase.STARTING)


def is_suspended(stage: PlannedStage, job: Manifest) -> bool:
    """Whether a job's own switch is off."""
    spec = job["spec"]
    if stage.kind == "PyTorchJob":
        spec = spec.get("runPolicy") or {}
    return bool(spec.get("suspend", False))


def release_stage(api: Api, plan: Plan, stage: PlannedStage, state: JobState) -> None:
    """Let a held stage start, or enter its queue.

    Raises:
        RefusedError: Somebody has changed its job since it was read: it may be cancelled.
    """
    change: dict[str, Any] = {"metadata": {"annotations": {RELEASED_ANNOTATION: write_now(api)}}}
    if state.version:
        change["metadata"]["resourceVersion"] = state.version
    if plan.gang == "kueue":
        change["metadata"]["labels"] = {QUEUE_LABEL: plan.queue}
    else:
        change["spec"] = _policy(stage, "suspend", value=False)
    api.patch(stage.resource, stage.name, change)


def suspend_stage(api: Api, plan: Plan, stage: PlannedStage, by: str, why: str) -> None:
    """Stop a stage so that it can be resumed; its workers get SIGTERM and checkpoint."""
    note = json.dumps({"by": by, "why": why, "at": write_now(api)})
    change: dict[str, Any] = {"metadata": {"annotations": {STOPPED_ANNOTATION: note}}}
    if plan.gang != "kueue":
        change["spec"] = _policy(stage, "suspend", value=True)
        api.patch(stage.resource, stage.name, change)
        return
    # The note goes first: a stage of an inactive workload without one was given up by Kueue.
    job = api.patch(stage.resource, stage.name, change)
    try:
        workload = find_workload(api, job)
        if workload is None:
            # It has not taken notice of the job, and must not when it does.
            held = {"metadata": {"labels": {QUEUE_LABEL: HELD_QUEUE}}}
            api.patch(stage.resource, stage.name, held)
        else:
            # Kueue undoes a change of the job's own switch within seconds.
            api.patch(WORKLOADS, workload["metadata"]["name"], {"spec": {"active": False}})
    except ClusterError:
        unnoted = {"metadata": {"annotations": {STOPPED_ANNOTATION: None}}}
        with contextlib.suppress(ClusterError):
            api.patch(stage.resource, stage.name, unnoted)
        raise


def resume_stage(api: Api, plan: Plan, stage: PlannedStage) -> None:
    """Let a suspended stage go on from its last checkpoint, or wait for its turn again."""
    annotations = {STOPPED_ANNOTATION: None, RELEASED_ANNOTATION: write_now(api)}
    change: dict[str, Any] = {"metadata": {"annotations": annotations}}
    if plan.gang != "kueue":
        change["spec"] = _policy(stage, "suspend", value=False)
        api.patch(stage.resource, stage.name, change)
        return
    job = api.get(stage.resource, stage.name)
    metadata = job["metadata"]
    is_first = stage.name == plan.stages[0].name
    if is_first or RELEASED_ANNOTATION in (metadata.get("annotations") or {}):
        change["metadata"]["labels"] = {QUEUE_LABEL: plan.queue}
    else:
        del annotations[RELEASED_ANNOTATION]  # whoever releases stages will, in its turn
    workload = find_workload(api, job)
    if workload is not None:
        _reactivate(api, workload)
    api.patch(stage.resource, stage.name, change)


def end_stage(api: Api, stage: PlannedStage, by: str, why: str) -> None:
    """Make a job fail for good, where it cannot be suspended: Kueue holds its switch."""
    note = json.dumps({"by": by, "why": why, "at": write_now(api), "final": True})
    change = {
        "metadata": {"annotations": {STOPPED_ANNOTATION: note}},
        "spec": _policy(stage, "activeDeadlineSeconds", value=1),
    }
    api.patch(stage.resource, stage.name, change)


def expire_stage(api: Api, stage: PlannedStage, ttl_seconds: int) -> None:
    """Let the cluster remove a finished job and its pods, so long after its end."""
    change = {"spec": _policy(stage, "ttlSecondsAfterFinished", ttl_seconds)}
    api.patch(stage.resource, stage.name, change)


def find_workload(api: Api, job: Manifest) -> Manifest | None:
    """Return Kueue's object for a job, or None where there is none (yet)."""
    uid = job["metadata"].get("uid", "")
    found = api.select(WORKLOADS, labels=f"kueue.x-k8s.io/job-uid={uid}")
    return found[0] if found else None


def see_workload(state: JobState, workload: Manifest | None) -> JobState:
    """Return the state of a queued stage once more, by its workload: it may wait for nobody.

    Kueue deactivates what has used up its time (kueue.x-k8s.io/max-exec-time-seconds), and what an
    admission check rejects; somebody has to activate it again.
    """
    if state.phase is not Phase.QUEUED or workload is None or workload["spec"].get("active", True):
        return state
    if "deletionTimestamp" in workload["metadata"]:
        return state  # it was resumed: Kueue makes another one
    conditions = workload.get("status", {}).get("conditions", ())
    messages = [item.get("message", "") for item in conditions if item["type"] == "Evicted"]
    message = messages[0] if messages else ""
    return replace(state, phase=Phase.SUSPENDED, message=message, stopped_by=KUEUE)


def read_all_jobs(api: Api, plans: Iterable[Plan]) -> Callable[[Resource, str], Manifest | None]:
    """Read the jobs of many releases at once, and return what finds one of them by its name."""
    kinds = {stage.resource for plan in plans for stage in plan.stages}
    jobs = {
        (kind, str(job["metadata"]["name"])): job
        for kind in kinds
        for job in api.select(kind, labels=RUN_LABEL)
    }
    return lambda kind, name: jobs.get((kind, name))


def see_job(api: Api, plan: Plan, stage: PlannedStage, job: Manifest | None) -> JobState:
    """Return the state of a stage whose job was read, and what Kueue says of one that is queued.

    The supervisor has no rights on Kueue's objects; users who have none see what it does.
    """
    state = read_state(plan, stage, job)
    if job is None or state.phase is not Phase.QUEUED:
        return state
    try:
        return see_workload(state, find_workload(api, job))
    except ClusterError:
        return state


def has_condition(item: Manifest, kind: str) -> bool:
    """Whether a job, or a workload, says of itself that something is so."""
    conditions = (item.get("status") or {}).get("conditions", ())
    return any(found["type"] == kind and found["status"] == "True" for found in conditions)


def write_now(api: Api) -> str:
    """Return the present moment in RFC 3339."""
    return api.now().strftime("%Y-%m-%dT%H:%M:%SZ")


def read_time(text: str) -> datetime:
    """Return the moment that RFC 3339 text names."""
    return datetime.fromisoformat(text)


def _reactivate(api: Api, workload: Manifest) -> None:
    """Let Kueue admit a workload again.

    Where Kueue itself has deactivated it, its mark may stay (Kueue 0.10), by which it would at once
    do so again. For a job without a workload it makes a new one, without a past.
    """
    name = workload["metadata"]["name"]
    if has_condition(workload, "DeactivationTarget"):
        api.delete(WORKLOADS, name)
    else:
        api.patch(WORKLOADS, name, {"spec": {"active": True}})


def _policy(stage: PlannedStage, field: str, value: int) -> dict[str, Any]:
    """Return the change of a spec by a field that both kinds have, each at its own place."""
    change = {field: value}
    return {"runPolicy": change} if stage.kind == "PyTorchJob" else change


def _count_pods(stage: PlannedStage, status: dict[str, Any]) -> tuple[int, int]:
    if stage.kind == "Job":
        return status.get("ready", 0), status.get("failed", 0)
    worker = (status.get("replicaStatuses") or {}).get("Worker") or {}
    return worker.get("active", 0), worker.get("failed", 0)


def _count_succeeded(stage: PlannedStage, status: dict[str, Any]) -> int:
    if stage.kind == "Job":
        return int(status.get("succeeded", 0))
    worker = (status.get("replicaStatuses") or {}).get("Worker") or {}
    return int(worker.get("succeeded", 0))
