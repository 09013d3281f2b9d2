"""Why a stage does not move, in plain words, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Final

from clusterfit.errors import NoProgressError
from clusterfit.launch.evidence import Evidence, find_refusal, list_ends
from clusterfit.launch.jobs import SUPERVISOR, Phase
from clusterfit.launch.pods import Ended, explain_lost, explain_waiting, pick_newest, read_end

_OF_BEFORE: Final = "The workload is deactivated"
"""Kueue leaves this word of an earlier suspension to a workload that is active again."""


@dataclass(frozen=True, slots=True)
class Cause:
    """What is the matter, and its cure; both empty where nothing is."""

    text: str = ""
    advice: str = ""


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


def _explain_missing(evidence: Evidence) -> Cause:
    return Cause(
        f"{evidence.stage.kind} {evidence.stage.name} does not exist: removed by hand, or after "
        "platform.ttlSecondsAfterFinished",
        f"what it wrote is on the claim: {evidence.command('logs', evidence.stage.stage)}",
    )


def _explain_held(evidence: Evidence) -> Cause:
    if evidence.waits_in_vain:
        return Cause(f"will not start: {evidence.waits_for} failed")
    # The stage before may have succeeded since the supervisor has looked last.
    what = f"waits for {evidence.waits_for}" if evidence.waits_for else "its turn has come"
    if evidence.plan.sequencing == "client":
        return Cause(
            f"{what}; nothing in the cluster starts it",
            f"keep `{evidence.command('wait')}` running",
        )
    if evidence.supervision.queue:
        return Cause(
            f"{what}; the supervisor, which would start it, waits in queue "
            f"{evidence.supervision.queue} itself",
            f"`{evidence.command('wait')}` starts no stage in this mode; with "
            "platform.sequencing.mode: client it would, and no supervisor is needed",
        )
    if evidence.supervision.trouble:
        return Cause(
            f"{what}; the supervisor, which would start it, does not run: "
            f"{evidence.supervision.trouble}",
            f"see `kubectl describe job {evidence.plan.supervisor}{evidence.options}`",
        )
    if evidence.supervision.retries:
        return Cause(
            f"{what}; the supervisor, which would start it, tries again and again: "
            f"{evidence.supervision.retries}",
            f"see `kubectl logs job/{evidence.plan.supervisor}{evidence.options}`",
        )
    return Cause(what)


def _explain_queued(evidence: Evidence) -> Cause:
    if evidence.unread_queue:
        return Cause(
            f"queue {evidence.plan.queue}; what Kueue says of it cannot be read: "
            f"{evidence.unread_queue}"
        )
    if evidence.workload is None:
        return Cause(
            "Kueue has not taken notice of it",
            f"is its integration for {evidence.stage.kind} on (integrations.frameworks)?",
        )
    position = f"place {evidence.queue_position} in " if evidence.queue_position else ""
    where = f"{position}queue {evidence.plan.queue}"
    for condition in reversed(evidence.workload.get("status", {}).get("conditions", ())):
        message = condition.get("message", condition["type"])
        if message.startswith(_OF_BEFORE):
            continue
        if condition["status"] == "False" or condition["type"] in ("Evicted", "Preempted"):
            return Cause(f"{where}: {message}")
    return Cause(where)


def _explain_suspended(evidence: Evidence) -> Cause:
    state = evidence.state
    who = {"": "by somebody, with other means than clusterfit", "supervisor": "by the supervisor"}
    whom = who.get(state.stopped_by, f"by {state.stopped_by}")
    why = f": {state.message}" if state.message else ""
    return Cause(f"suspended {whom}{why}", evidence.command("resume"))


def _explain_starting(evidence: Evidence) -> Cause:
    refusal = find_refusal(evidence)
    if refusal:
        return _explain_refused_pod(refusal)
    for pod in evidence.pods:
        is_lost = pod in evidence.lost_pods
        text, advice = explain_lost(pod) if is_lost else explain_waiting(pod)
        if text:
            return Cause(f"{pod['metadata']['name']}: {text}", advice)
    if evidence.unprepared:
        return Cause(
            evidence.unprepared,
            "correct what it names (platform.extraVolumes, a claim, its file system), and submit "
            "with --replace where that changes the run file",
        )
    end = next(list_ends(evidence), None)
    if end:
        return _explain_crash(evidence, end)
    return Cause(f"{len(evidence.running_pods)} of {evidence.stage.nodes} pods run")


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


def _explain_crash(evidence: Evidence, end: Ended) -> Cause:
    # The newest pod is the one that ended, or one that may not have said anything yet.
    is_newest = bool(evidence.pods) and read_end(evidence.pods[-1]) is not None
    command = _name_logs(evidence, *(() if is_newest else ("--previous",)))
    # After a code that is not retried the job fails, as soon as whoever keeps it takes notice.
    what = "a pod has ended and starts again" if end.is_retried else "a pod has ended"
    return Cause(f"{what}: {end.describe()}", _advise(end, command))


def _explain_failed(evidence: Evidence) -> Cause:
    command = _name_logs(evidence)
    if evidence.state.stopped_by == SUPERVISOR:  # under Kueue it can end a stage, not suspend it
        return Cause(
            f"stopped by the supervisor: {evidence.state.message}",
            f"mend what it says and submit with --replace; {command}",
        )
    found = [
        (f"{pod['metadata']['name']}: ", end)
        for pod in pick_newest(evidence.pods)
        if (end := read_end(pod)) and end.exit_code != 0
    ] or [("", end) for end in islice(list_ends(evidence), 1)]
    if not found:
        return Cause(evidence.state.message, command)
    # What is permanent decides: the peers of a pod that failed for good are stopped.
    who, end = min(found, key=lambda item: item[1].is_retried)
    text = f"{who}{end.describe()}"
    if end.exit_code == NoProgressError.exit_code:
        # That nothing moved is no reason; why its attempts ended is.
        ends = (item for item in list_ends(evidence) if item.lacked_memory or item.is_by_node)
        why = next(ends, None)
        if why:
            return Cause(f"{text}; a pod before it: {why.describe()}", _advise(why, command))
    return Cause(text, _advise(end, command))


def _name_logs(evidence: Evidence, *options: str) -> str:
    """Return the command that shows why pods ended: any rank may be the one that says it."""
    ranks = ("--all-ranks",) if evidence.stage.world_size > 1 else ()
    return evidence.command("logs", evidence.stage.stage, *ranks, *options)


def _advise(end: Ended, command: str) -> str:
    if end.lacked_memory:
        return (
            "where memory was short, raise platform.memoryGibPerNode and submit with --replace; "
            f"{command}"
        )
    if end.is_by_node:
        asked = "correct what it names, or ask an administrator to look at the node"
        return asked if end.exit_code is None else f"{asked}; {command}"
    return command
