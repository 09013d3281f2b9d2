"""What a run is doing: read from the cluster at one moment, never remembered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clusterfit.launch.api import JOBS, PODS, WORKLOADS, Api
from clusterfit.launch.causes import Cause, find_cause
from clusterfit.launch.evidence import Evidence, count_restarts
from clusterfit.launch.failures import ClusterError
from clusterfit.launch.jobs import QUEUE_LABEL, Phase, find_workload, read_state, see_workload
from clusterfit.launch.manifests import Manifest
from clusterfit.launch.plan import (
    RELEASE_LABEL,
    ROLE_LABEL,
    RUN_LABEL,
    Plan,
    PlannedStage,
    Release,
)
from clusterfit.launch.pods import (
    explain_waiting,
    has_succeeded,
    is_running,
    select_events,
    select_placed,
    select_pods,
)
from clusterfit.logline import Progress, parse_line, read_progress

_TAIL_LINES = 200
"""Enough to hold a progress line, whatever else a worker says."""


@dataclass(frozen=True, slots=True)
class StageStatus:
    """One stage of a run."""

    release: str
    stage: str
    phase: Phase
    running_pods: int
    wanted_pods: int
    restarts: int
    """As far as events reach back, an hour by default."""
    progress: Progress | None
    cause: Cause

    @property
    def is_done(self) -> bool:
        """Whether it has succeeded."""
        return self.phase is Phase.SUCCEEDED


@dataclass(frozen=True, slots=True)
class RunStatus:
    """All stages of a run."""

    run: str
    namespace: str
    stages: tuple[StageStatus, ...]

    @property
    def phase(self) -> Phase:
        """The phase of the stage that decides."""
        return summarise([stage.phase for stage in self.stages])

    @property
    def exit_code(self) -> int:
        """0: it has succeeded or may yet; 1: a stage has failed for good."""
        return 1 if self.phase is Phase.FAILED else 0

    def dump(self) -> dict[str, Any]:
        """Return it in JSON types."""
        return {
            "run": self.run,
            "namespace": self.namespace,
            "phase": self.phase.value,
            "stages": [_dump_stage(stage) for stage in self.stages],
        }


def summarise(phases: list[Phase]) -> Phase:
    """Return the phase that decides: a failed stage's, else that of the first that is not done."""
    if Phase.FAILED in phases:
        return Phase.FAILED
    return next((phase for phase in phases if phase is not Phase.SUCCEEDED), Phase.SUCCEEDED)


def read_status(api: Api, run: str, releases: list[Release]) -> RunStatus:
    """Look at every stage of a run."""
    stages = [
        stage for release in releases for stage in _read_release(api, release.plan)
    ]  # in the pipeline's order, as the releases are
    return RunStatus(run, api.namespace, tuple(stages))


def explain_stage(api: Api, plan: Plan, stage: PlannedStage) -> Cause:
    """Return why one stage does not move; nothing where it runs or is done."""
    return next(each.cause for each in _read_release(api, plan) if each.stage == stage.stage)


def _read_release(api: Api, plan: Plan) -> list[StageStatus]:
    statuses = []
    before = ""
    in_vain = False
    for stage in plan.stages:
        job = api.find(stage.resource, stage.name)
        evidence = _gather(api, plan, stage, job, before, in_vain)
        state = evidence.state
        statuses.append(
            StageStatus(
                release=plan.release,
                stage=stage.stage,
                phase=state.phase,
                running_pods=sum(is_running(pod) for pod in evidence.pods),
                wanted_pods=stage.nodes,
                restarts=count_restarts(evidence),
                progress=_read_progress(api, evidence),
                cause=find_cause(evidence),
            )
        )
        if state.phase is not Phase.SUCCEEDED and not before:
            before = stage.stage
        in_vain = in_vain or state.phase is Phase.FAILED
    return statuses


def _gather(
    api: Api,
    plan: Plan,
    stage: PlannedStage,
    job: Manifest | None,
    waits_for: str,
    waits_in_vain: bool,
) -> Evidence:
    state = read_state(plan, stage, job)
    workload = None
    position = 0
    if job is not None and state.phase is Phase.QUEUED:
        try:
            workload = find_workload(api, job)
            position = _find_position(api, workload)
        except ClusterError:
            workload = None  # Kueue's objects may not be read; the phase still tells the truth
        state = see_workload(state, workload)
    is_interesting = state.phase not in (Phase.MISSING, Phase.HELD)
    return Evidence(
        plan=plan,
        stage=stage,
        state=state,
        pods=select_pods(api, plan.run, stage) if is_interesting else [],
        job_events=select_events(api, job) if is_interesting and job is not None else [],
        placed_pods=(
            select_placed(api, stage, job) if is_interesting and job is not None else frozenset()
        ),
        workload=workload,
        queue_position=position,
        waits_for=waits_for,
        waits_in_vain=waits_in_vain,
        **(_look_at_supervisor(api, plan) if state.phase is Phase.HELD else {}),
    )


def _look_at_supervisor(api: Api, plan: Plan) -> dict[str, str]:
    """Return the fields of `Evidence` that tell of the supervisor."""
    if plan.sequencing != "cluster":
        return {}
    job = api.find(JOBS, f"{plan.release}-supervisor")
    if job is None:
        return {"supervisor_trouble": "its Job was removed"}
    if job["spec"].get("suspend", False):
        # Kueue has put it in a queue nobody asked for; or it was cancelled with its stages.
        return {"supervisor_queue": str(job["metadata"].get("labels", {}).get(QUEUE_LABEL, ""))}
    if _has_condition(job, "Failed"):
        return {"supervisor_trouble": "its Job has failed"}
    labels = f"{RUN_LABEL}={plan.run},{RELEASE_LABEL}={plan.release},{ROLE_LABEL}=supervisor"
    pods = api.select(PODS, labels=labels)
    if pods:
        newest = max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        return {"supervisor_trouble": explain_waiting(newest)[0]}
    refused = [
        str(event.get("message", "refused"))
        for event in select_events(api, job)
        if event.get("reason") == "FailedCreate"
    ]
    return {"supervisor_trouble": refused[-1] if refused else ""}


def _find_position(api: Api, workload: Manifest | None) -> int:
    """Return how many workloads of the queue came before and wait still, plus one."""
    if workload is None:
        return 0
    queue = workload["spec"].get("queueName", "")
    created = workload["metadata"]["creationTimestamp"]
    priority = workload["spec"].get("priority", 0)
    waiting = [
        item
        for item in api.select(WORKLOADS)
        if item["spec"].get("queueName", "") == queue
        and item["spec"].get("active", True)
        and not _has_condition(item, "QuotaReserved")
        and not _has_condition(item, "Finished")
    ]
    ahead = [
        item
        for item in waiting
        if (-item["spec"].get("priority", 0), item["metadata"]["creationTimestamp"])
        < (-priority, created)
    ]
    return len(ahead) + 1


def _has_condition(item: Manifest, kind: str) -> bool:
    conditions = (item.get("status") or {}).get("conditions", ())
    return any(found["type"] == kind and found["status"] == "True" for found in conditions)


def _read_progress(api: Api, evidence: Evidence) -> Progress | None:
    # The operator sees a moment later that a stage has ended, and until then it is at work.
    at_work = evidence.state.phase in (Phase.STARTING, Phase.RUNNING)
    told = [pod for pod in evidence.pods if is_running(pod) or (at_work and has_succeeded(pod))]
    if not told:
        return None
    for line in reversed(api.read_log(told[0]["metadata"]["name"], _TAIL_LINES)):
        progress = read_progress(parse_line(line) or {})
        if progress is not None:
            return progress
    return None


def _dump_stage(stage: StageStatus) -> dict[str, Any]:
    dumped: dict[str, Any] = {
        "stage": stage.stage,
        "release": stage.release,
        "phase": stage.phase.value,
        "pods": {"running": stage.running_pods, "wanted": stage.wanted_pods},
        "restarts": stage.restarts,
    }
    if stage.progress:
        progress = stage.progress
        dumped["progress"] = {
            "done": progress.done,
            "total": progress.total,
            "unit": progress.unit,
            "rate": progress.rate,
            "etaSeconds": progress.eta_seconds,
        }
    if stage.cause.text:
        dumped["cause"] = stage.cause.text
    if stage.cause.advice:
        dumped["advice"] = stage.cause.advice
    return dumped
