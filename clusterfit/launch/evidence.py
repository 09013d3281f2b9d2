"""What was read of a stage, and what it says of pods that came, ended, or were refused."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from clusterfit.launch.jobs import JobState
from clusterfit.launch.manifests import Manifest
from clusterfit.launch.plan import Plan, PlannedStage
from clusterfit.launch.pods import (
    Ended,
    has_succeeded,
    is_running,
    read_end,
    read_event_time,
    read_phase,
)
from clusterfit.launch.supervision import Supervision

_REFUSED: Final = ("FailedCreatePod", "FailedCreate")
_MADE: Final = ("SuccessfulCreatePod", "SuccessfulCreate")
_EXITED: Final = re.compile(r"exited with code (\d+)")


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that was read of one stage."""

    plan: Plan
    stage: PlannedStage
    state: JobState
    waits_for: str
    """The stage before, where this one is held."""
    waits_in_vain: bool
    """Whether that stage has failed for good."""
    options: str
    """What leads a command of ours to the same cluster and namespace."""
    supervision: Supervision
    """What keeps the supervisor from starting a held stage."""
    pods: Sequence[Manifest] = ()
    """In the order of `select_pods`: the newest of a rank after those that have failed before."""
    lost_pods: Sequence[Manifest] = ()
    """Those of them whose nodes do not answer any more."""
    job_events: Sequence[Manifest] = ()
    """Oldest first."""
    placed_pods: frozenset[str] = frozenset()
    """Uids of those that were placed on a node, also where they are gone."""
    unprepared: str = ""
    """Which pod waits for its node to mount a volume or the like in vain, and why."""
    workload: Manifest | None = None
    """Kueue's, where the stage is queued."""
    unread_queue: str = ""
    """Why Kueue's objects could not be read."""
    queue_position: int = 0
    """Counted from 1; 0: not known."""

    @property
    def running_pods(self) -> list[Manifest]:
        """Those whose containers run, as far as their nodes tell."""
        return [pod for pod in self.pods if is_running(pod) and pod not in self.lost_pods]

    @property
    def working_pods(self) -> list[Manifest]:
        """Those that run, and those that have done their part and ended well."""
        running = self.running_pods
        return [pod for pod in self.pods if pod in running or has_succeeded(pod)]

    @property
    def is_whole(self) -> bool:
        """Whether none of the pods that are wanted is missing."""
        return len(self.working_pods) >= self.stage.nodes

    def command(self, verb: str, *arguments: str) -> str:
        """Return a command of ours on this run, to be copied."""
        return " ".join(("clusterfit", verb, self.plan.run, *arguments)) + self.options


def count_restarts(evidence: Evidence) -> int:
    """Return how often a pod of the stage has come back, as far as events reach (an hour)."""
    present = {pod["metadata"]["uid"] for pod in evidence.pods}
    return max(0, len(evidence.placed_pods | present) - evidence.stage.nodes)


def list_ends(evidence: Evidence) -> Iterator[Ended]:
    """Yield how pods ended that did not end well, the newest first.

    A Job's pods stay and say how; a PyTorchJob's are gone within a second, but events tell codes.
    """
    ends = map(read_end, reversed(evidence.pods))
    yield from (end for end in ends if end and end.exit_code != 0)
    for event in reversed(evidence.job_events):
        exited = _EXITED.search(event.get("message", ""))
        if exited:
            yield Ended("Error", int(exited[1]), "")


def find_refusal(evidence: Evidence) -> str:
    """Return why a pod that is wanted is not made, where making one was refused last."""
    present = [pod for pod in evidence.pods if read_phase(pod) != "Failed"]
    if len(present) >= evidence.stage.nodes:
        return ""
    tried = [item for item in evidence.job_events if item.get("reason") in _REFUSED + _MADE]
    # The second in which one pod was made may be that in which the next one was refused.
    last = [item for item in tried if read_event_time(item) == read_event_time(tried[-1])]
    refused = [item for item in last if item["reason"] in _REFUSED]
    return str(refused[-1].get("message", "refused")) if refused else ""
