"""What a run is doing: read from the cluster at one moment, never remembered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from clusterfit.launch.api import WORKLOADS, Api
from clusterfit.launch.causes import Cause, find_cause
from clusterfit.launch.evidence import Evidence, count_restarts
from clusterfit.launch.failures import ClusterError
from clusterfit.launch.jobs import (
    Phase,
    find_workload,
    has_condition,
    read_state,
    see_pods,
    see_workload,
)
from clusterfit.launch.manifests import Manifest
from clusterfit.launch.plan import Plan, PlannedStage, Release
from clusterfit.launch.pods import (
    explain_preparation,
    is_lost,
    read_placements,
    select_events,
    select_placed,
    select_pods,
)
from clusterfit.launch.sequence import StageView, find_overdue
from clusterfit.launch.supervision import Supervision, read_supervision
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
    jobs = [api.find(stage.resource, stage.name) for stage in plan.stages]
    states = [read_state(plan, stage, job) for stage, job in zip(plan.stages, jobs, strict=True)]
    phases = {state.phase for state in states}
    supervision = Supervision()
    if Phase.HELD in phases:
        views = [StageView(*each) for each in zip(plan.stages, states, strict=True)]
        is_overdue = find_overdue(views, api.now()) is not None
        supervision = read_supervision(api, plan, is_overdue=is_overdue)
    placements = read_placements(api) if any(map(_may_have_pods, phases)) else []
    statuses = []
    waits_for, waits_in_vain = "", False
    for stage, job, state in zip(plan.stages, jobs, states, strict=True):
        evidence = Evidence(plan, stage, state, waits_for, waits_in_vain, api.options, supervision)
        evidence = _gather(api, job, evidence, placements)
        statuses.append(
            StageStatus(
                release=plan.release,
                stage=stage.stage,
                phase=evidence.state.phase,
                running_pods=len(evidence.running_pods),
                wanted_pods=stage.nodes,
                restarts=count_restarts(evidence),
                progress=_read_progress(api, evidence),
                cause=find_cause(evidence),
            )
        )
        if state.phase is not Phase.SUCCEEDED:
            waits_for = waits_for or stage.stage
        waits_in_vain = waits_in_vain or state.phase is Phase.FAILED
    return statuses


def _may_have_pods(phase: Phase) -> bool:
    return phase not in (Phase.MISSING, Phase.HELD)


def _gather(
    api: Api, job: Manifest | None, evidence: Evidence, placements: list[Manifest]
) -> Evidence:
    """Return the evidence with what is to be read of the stage's pods and of its place in line."""
    if job is None or not _may_have_pods(evidence.state.phase):
        return evidence
    if evidence.state.phase is Phase.QUEUED:
        evidence = _see_queue(api, job, evidence)
    pods = select_pods(api, evidence.plan.run, evidence.stage)
    evidence = replace(
        evidence,
        pods=pods,
        lost_pods=[pod for pod in pods if is_lost(pod, api.now())],
        unprepared=explain_preparation(api, pods),
        job_events=select_events(api, job),
        placed_pods=select_placed(placements, evidence.stage, job),
    )
    return replace(evidence, state=see_pods(evidence.state, is_whole=evidence.is_whole))


def _see_queue(api: Api, job: Manifest, evidence: Evidence) -> Evidence:
    try:
        workload = find_workload(api, job)
        position = _find_position(api, workload)
    except ClusterError as error:
        return replace(evidence, unread_queue=str(error))  # the phase still tells the truth
    return replace(
        evidence,
        state=see_workload(evidence.state, workload),
        workload=workload,
        queue_position=position,
    )


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
        and not has_condition(item, "QuotaReserved")
        and not has_condition(item, "Finished")
    ]
    ahead = [
        item
        for item in waiting
        if (-item["spec"].get("priority", 0), item["metadata"]["creationTimestamp"])
        < (-priority, created)
    ]
    return len(ahead) + 1


def _read_progress(api: Api, evidence: Evidence) -> Progress | None:
    # The operator sees a moment later that a stage has ended, and until then it is at work.
    at_work = evidence.state.phase in (Phase.STARTING, Phase.RUNNING)
    told = evidence.working_pods if at_work else evidence.running_pods
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
        }
        if progress.eta_seconds >= 0:
            dumped["progress"]["etaSeconds"] = progress.eta_seconds
    if stage.cause.text:
        dumped["cause"] = stage.cause.text
    if stage.cause.advice:
        dumped["advice"] = stage.cause.advice
    return dumped
