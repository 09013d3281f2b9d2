"""Bounds for what the operator would let go on for ever."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from clusterfit.launch.api import PODS, Api
from clusterfit.launch.jobs import SUPERVISOR, Phase, end_stage, read_time, suspend_stage
from clusterfit.launch.plan import Plan
from clusterfit.launch.pods import has_started, read_end
from clusterfit.launch.sequence import StageView

MAX_EARLY_DEATHS: Final = 12
"""So many pods of a node in a row that died before our code could count the attempt, and the stage
stops. It ends by itself after three attempts, in each of which a gang may lose a pod or two more
than the one that crashed, as all come back to meet again."""
MAX_EARLY_FAILURES: Final = 6
"""Of a Job's pods: that is no gang, and pauses longer after each."""

_EARLY_SECONDS: Final = 30.0
"""Within this time torch is not even imported on a slow disk; our own attempts count after it."""


@dataclass(slots=True)
class PodWatch:
    """What the bounds of one stage need to remember between looks."""

    uids: dict[str, str] = field(default_factory=dict)
    early_deaths: dict[str, int] = field(default_factory=dict)
    last_death: str = ""
    first_seen: dict[str, datetime] = field(default_factory=dict)
    """By pod; of one whose container has not started, when that was seen last."""
    last_whole: datetime | None = None
    """When all pods of the stage were last seen running."""
    whole_since: datetime | None = None
    """Since when they have been, without a break."""
    failures_before: int = -1
    """A Job's failed pods when one of its pods last lived long; -1: not looked at yet."""


class Bounds:
    """Stops a stage that takes too long, holds GPUs for nothing, or cannot even start."""

    def __init__(self, api: Api, plan: Plan) -> None:
        """Start with an empty memory; a restart only lengthens the bounds."""
        self._api = api
        self._plan = plan
        self._watches: dict[str, PodWatch] = {}

    def check(self, view: StageView, moment: datetime) -> str:
        """Stop the stage where a bound is passed, and return why; else return nothing."""
        if view.state.phase not in (Phase.STARTING, Phase.RUNNING):
            self._watches.pop(view.stage.stage, None)
            return ""
        watch = self._watches.setdefault(view.stage.stage, PodWatch())
        why = (
            self._check_deadline(view, moment)
            or self._check_start(view, watch, moment)
            or self._check_pods(view, watch, moment)
            or self._check_failures(view, watch, moment)
        )
        if why and self._plan.gang == "kueue":
            end_stage(self._api, view.stage, SUPERVISOR, why)
        elif why:
            suspend_stage(self._api, self._plan, view.stage, SUPERVISOR, why)
        if why:
            del self._watches[view.stage.stage]
        return why

    def _check_deadline(self, view: StageView, moment: datetime) -> str:
        # Kueue counts for itself, by the label kueue.x-k8s.io/max-exec-time-seconds.
        limit = view.stage.deadline_seconds
        if not limit or not view.state.released or self._plan.gang == "kueue":
            return ""
        if (moment - read_time(view.state.released)).total_seconds() < limit:
            return ""
        return f"platform.deadlineSeconds: the stage took longer than {limit} s"

    def _check_start(self, view: StageView, watch: PodWatch, moment: datetime) -> str:
        limit = view.stage.start_deadline_seconds
        if view.state.phase is Phase.RUNNING:
            watch.last_whole = moment
        # With a PodGroup the scheduler starts none before all, and none of them holds a GPU; but a
        # pod that was lost later may wait alone, while the others wait for it.
        holds_gpus = self._plan.gang in ("none", "kueue") or view.state.running_pods > 0
        if not limit or not holds_gpus or view.state.phase is Phase.RUNNING:
            return ""
        # The first look, not the release: whoever looks anew knows of no time before.
        since = watch.last_whole or moment
        watch.last_whole = since
        if (moment - since).total_seconds() < limit:
            return ""
        return (
            f"platform.startDeadlineSeconds: only {view.state.running_pods} of {view.stage.nodes} "
            f"pods ran for {limit} s"
        )

    def _check_pods(self, view: StageView, watch: PodWatch, moment: datetime) -> str:
        for name in view.stage.pods:
            pod = self._api.find(PODS, name)
            if pod is None:
                continue
            uid = pod["metadata"]["uid"]
            ended = read_end(pod)
            if ended:
                code = "" if ended.exit_code is None else f" ({ended.exit_code})"
                words = f"{ended.reason}{code}"
                watch.last_death = f"{words}: {ended.message}" if ended.message else words
            if uid != watch.uids.get(name):
                seen = watch.first_seen.get(name)
                if seen is not None:
                    lived = (moment - seen).total_seconds()
                    deaths = watch.early_deaths.get(name, 0)
                    watch.early_deaths[name] = deaths + 1 if lived < _EARLY_SECONDS else 0
                watch.uids[name] = uid
                watch.first_seen[name] = moment
            elif not has_started(pod):
                watch.first_seen[name] = moment  # it lives from the start of its container on
            elif (moment - watch.first_seen[name]).total_seconds() >= _EARLY_SECONDS:
                watch.early_deaths[name] = 0
            if watch.early_deaths.get(name, 0) >= MAX_EARLY_DEATHS:
                last = f": {watch.last_death}" if watch.last_death else ""
                return f"{MAX_EARLY_DEATHS} pods in a row died within seconds{last}"
        return ""

    def _check_failures(self, view: StageView, watch: PodWatch, moment: datetime) -> str:
        """Do for a Job, whose pods have names that cannot be known, what it counts itself."""
        if view.stage.kind != "Job":
            return ""
        is_whole = view.state.phase is Phase.RUNNING
        watch.whole_since = (watch.whole_since or moment) if is_whole else None
        lived = (moment - watch.whole_since).total_seconds() if watch.whole_since else 0.0
        if watch.failures_before < 0 or lived >= _EARLY_SECONDS:
            watch.failures_before = view.state.failed_pods
        if view.state.failed_pods - watch.failures_before < MAX_EARLY_FAILURES:
            return ""
        return f"{MAX_EARLY_FAILURES} pods in a row died within seconds"
