"""The supervisor: a small process in the cluster that takes a release through its stages.

It polls, because its rights are bound to the names of its own jobs and pods, and because a look
that fails needs nothing but another look. It holds no state that matters: killed and started again,
it goes on from what the jobs say.
"""

from __future__ import annotations

import signal
import threading
from datetime import UTC, datetime
from types import FrameType
from typing import Final

from clusterfit.errors import TERMINATED_EXIT_CODE, ClusterfitError
from clusterfit.launch.api import Api
from clusterfit.launch.bounds import Bounds
from clusterfit.launch.plan import Plan, PlannedStage
from clusterfit.launch.sequence import (
    Absences,
    StageView,
    expire,
    find_failed,
    is_over,
    look,
    release_next,
)
from clusterfit.logline import format_line

POLL_SECONDS: Final = 5.0
ABSENCE_SECONDS: Final = 600.0
"""A job that is away for so long was removed, not only replaced by hand."""


def supervise(
    api: Api,
    plan: Plan,
    poll_seconds: float = POLL_SECONDS,
    absence_seconds: float = ABSENCE_SECONDS,
) -> int:
    """Release each stage in its turn until the release is over; return the exit code.

    A stage that failed for good ends it with 0: that is the stage's failure and stands in its job.
    So does one that was removed.
    """
    stop = threading.Event()

    def terminate(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, terminate)
    bounds = Bounds(api, plan)
    absences = Absences(absence_seconds)
    said: dict[str, str] = {}
    _say("supervising", stages=",".join(stage.stage for stage in plan.stages))
    while not stop.is_set():
        try:
            views = list(look(api, plan))
            _say_changes(views, said)
            removed = absences.find_removed(views, api.now())
            if is_over(views) or removed is not None:
                _say("over", outcome=_describe_outcome(views, removed))
                expire(api, plan, views, api.now())
                return 0
            released = release_next(api, plan, views)
            if released is not None:
                _say("released", stage=released.stage)
            for view in views:
                why = bounds.check(view, api.now())
                if why:
                    _say("stopped", level="warning", stage=view.stage.stage, why=why)
        except ClusterfitError as error:
            # The API server may be away for minutes; the next look finds out.
            if _is_news(said, "error", str(error)):
                _say("retrying", level="warning", why=str(error))
        else:
            said.pop("error", None)
        stop.wait(poll_seconds)
    _say("terminated")
    return TERMINATED_EXIT_CODE


def _describe_outcome(views: list[StageView], removed: PlannedStage | None) -> str:
    if removed is not None:
        return f"{removed.stage} was removed"
    failed = find_failed(views)
    return f"{failed.stage} failed" if failed is not None else "all stages succeeded"


def _say_changes(views: list[StageView], said: dict[str, str]) -> None:
    for view in views:
        phase = view.state.phase.value
        if _is_news(said, view.stage.stage, phase):
            _say("phase", stage=view.stage.stage, phase=phase)


def _is_news(said: dict[str, str], key: str, text: str) -> bool:
    """Whether this was not what was said last; from now on it is."""
    is_news = said.get(key) != text
    said[key] = text
    return is_news


def _say(message: str, level: str = "info", **fields: str) -> None:
    stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    print(format_line({"ts": stamp, "level": level, "msg": message, **fields}), flush=True)
