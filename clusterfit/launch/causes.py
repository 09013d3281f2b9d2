"""Why a stage does not move, in plain words, and what to do about it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from clusterfit.errors import EXIT_CODE_MEANINGS
from clusterfit.launch.jobs import JobState, Phase
from clusterfit.launch.manifests import Manifest
from clusterfit.launch.plan import Plan, PlannedStage
from clusterfit.launch.pods import explain_waiting, is_running, read_end, read_event_time

_REFUSED: Final = ("FailedCreatePod", "FailedCreate")
_MADE: Final = ("SuccessfulCreatePod", "SuccessfulCreate")
_EXITED: Final = re.compile(r"exited with code (\d+)")


@dataclass(frozen=True, slots=True)
class Cause:
    """What is the matter, and its cure; both empty where nothing is."""

    text: str = ""
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that was read of one stage."""

    plan: Plan
    stage: PlannedStage
    state: JobState
    pods: list[Manifest]
    job_events: list[Manifest]
    """Oldest first."""
    workload: Manifest | None
    queue_position: int
    """Counted from 1; 0: not known."""
    waits_for: str
    """The stage before, where this one is held."""
    waits_in_vain: bool
    """Whether that stage has failed for good."""

    def command(self, verb: str, *arguments: str) -> str:
        """Return a command of ours on this run, to be copied."""
        words = ("clusterfit", verb, self.plan.run, *arguments, "-n", self.plan.namespace)
        return " ".join(words)


def find_cause(evidence: Evidence) -> Cause:
    """Return why the stage does not move; nothing where it runs or is done."""
    explain = {
        Phase.MISSING: _explain_missing,
        Phase.HELD: _explain_held,
        Phase.QUEUED: _explain_queued,
        Phase.STARTING: _explain_starting,
        Phase.SUSPENDED: _explain_suspended,
        Phase.FAILED: _explain_failed,
    }.get(evidence.state.phase)
    return explain(evidence) if explain else Cause()


def count_restarts(evidence: Evidence) -> int:
    """Return how often a pod of the stage has come back, as far as events reach (an hour)."""
    if evidence.stage.kind == "Job":
        return evidence.state.failed_pods
    created = sum(
        event.get("count") or 1
        for event in evidence.job_events
        if event.get("reason") == "SuccessfulCreatePod"
    )
    return max(0, created - evidence.stage.nodes)


def _explain_missing(evidence: Evidence) -> Cause:
    return Cause(
        f"{evidence.stage.kind} {evidence.stage.name} does not exist: removed by hand, or after "
        "platform.ttlSecondsAfterFinished",
        f"what it wrote is on the claim: {evidence.command('logs', evidence.stage.stage)}",
    )


def _explain_held(evidence: Evidence) -> Cause:
    if evidence.waits_in_vain:
        return Cause(f"will not start: {evidence.waits_for} failed")
    if evidence.plan.sequencing == "client":
        return Cause(
            f"waits for {evidence.waits_for}; nothing in the cluster starts it",
            f"keep `{evidence.command('wait')}` running",
        )
    return Cause(f"waits for {evidence.waits_for}")


def _explain_queued(evidence: Evidence) -> Cause:
    if evidence.workload is None:
        return Cause(
            "Kueue has not taken notice of it",
            f"is its integration for {evidence.stage.kind} on (integrations.frameworks)?",
        )
    position = f"place {evidence.queue_position} in " if evidence.queue_position else ""
    where = f"{position}queue {evidence.plan.queue}"
    for condition in reversed(evidence.workload.get("status", {}).get("conditions", ())):
        if condition["status"] == "False" or condition["type"] in ("Evicted", "Preempted"):
            return Cause(f"{where}: {condition.get('message', condition['type'])}")
    return Cause(where)


def _explain_suspended(evidence: Evidence) -> Cause:
    state = evidence.state
    who = {"": "by somebody, with other means than clusterfit", "supervisor": "by the supervisor"}
    whom = who.get(state.stopped_by, f"by {state.stopped_by}")
    why = f": {state.message}" if state.message else ""
    return Cause(f"suspended {whom}{why}", evidence.command("resume"))


def _explain_starting(evidence: Evidence) -> Cause:
    refusal = _find_refusal(evidence)
    if refusal:
        return _explain_refused_pod(refusal)
    for pod in evidence.pods:
        text, advice = explain_waiting(pod)
        if text:
            return Cause(f"{pod['metadata']['name']}: {text}", advice)
    for event in reversed(evidence.job_events):
        exited = _EXITED.search(event.get("message", ""))
        if exited:
            return _explain_crash(evidence, int(exited[1]))
    running = sum(is_running(pod) for pod in evidence.pods)
    return Cause(f"{running} of {evidence.stage.nodes} pods run")


def _find_refusal(evidence: Evidence) -> str:
    """Return why a pod that is wanted is not made, where making one was refused last."""
    if len(evidence.pods) >= evidence.stage.nodes:
        return ""
    tried = [item for item in evidence.job_events if item.get("reason") in _REFUSED + _MADE]
    # The second in which one pod was made may be that in which the next one was refused.
    last = [item for item in tried if read_event_time(item) == read_event_time(tried[-1])]
    refused = [item for item in last if item["reason"] in _REFUSED]
    return str(refused[-1].get("message", "refused")) if refused else ""


def _explain_refused_pod(message: str) -> Cause:
    if "violates PodSecurity" in message:
        return Cause(
            f"Pod Security refuses its pods: {message.partition('violates ')[2]}",
            "remove what it names, often platform.extraVolumes, or use another namespace",
        )
    if "exceeded quota" in message:
        return Cause(
            message[message.index("exceeded quota") :],
            "wait until others finish, or ask for less",
        )
    return Cause(f"its pods are refused: {message}", "correct what it names")


def _explain_crash(evidence: Evidence, exit_code: int) -> Cause:
    meaning = EXIT_CODE_MEANINGS.get(exit_code, "a code that clusterfit does not use")
    command = evidence.command("logs", evidence.stage.stage, "--previous")
    return Cause(f"a pod ended with exit code {exit_code} ({meaning}) and starts again", command)


def _explain_failed(evidence: Evidence) -> Cause:
    command = evidence.command("logs", evidence.stage.stage)
    ends = [(pod, end) for pod in evidence.pods if (end := read_end(pod)) and end.exit_code]
    if ends:
        pod, end = ends[0]
        return Cause(f"{pod['metadata']['name']}: {end.describe()}", command)
    for event in reversed(evidence.job_events):
        exited = _EXITED.search(event.get("message", ""))
        if exited:
            code = int(exited[1])
            meaning = EXIT_CODE_MEANINGS.get(code, "a code that clusterfit does not use")
            return Cause(f"exit code {code}: {meaning}", command)
    return Cause(evidence.state.message, command)
