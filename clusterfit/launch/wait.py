"""Stay with a run until it is over, releasing its stages where nothing in the cluster does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from clusterfit.errors import ClusterfitError
from clusterfit.launch.api import Api
from clusterfit.launch.bounds import Bounds, utc_now
from clusterfit.launch.failures import NotFoundError, NotPermittedError
from clusterfit.launch.jobs import Phase
from clusterfit.launch.plan import Release
from clusterfit.launch.sequence import StageView, expire, is_over, look, release_next

_POLL_SECONDS: Final = 2.0

TIMED_OUT: Final = 124
"""What timeout(1) ends with."""

Say = Callable[[str], None]


def wait_for_run(
    api: Api,
    releases: Sequence[Release],
    say: Say,
    timeout_seconds: float = 0,
    stop: threading.Event | None = None,
) -> int:
    """Wait until every release of a run is over and return its result.

    Args:
        api: The namespace.
        releases: Those of the run.
        say: Is told of each stage's changes.
        timeout_seconds: When to give up; 0: never.
        stop: Set by another thread to end the waiting early.

    Returns:
        0 where all stages have succeeded, 1 where one has failed, 124 after the timeout.
    """
    started = time.monotonic()
    stop = stop or threading.Event()
    said: dict[str, Phase] = {}
    bounds = {release.plan.release: Bounds(api, release.plan) for release in releases}
    trouble = ""
    while not stop.is_set():
        try:
            views = {release.plan.release: list(look(api, release.plan)) for release in releases}
            for release in releases:
                _say_changes(views[release.plan.release], said, say)
                if release.plan.sequencing == "client":
                    _take_turn(api, release, views[release.plan.release], bounds, say)
            if all(map(is_over, views.values())):
                for release in releases:
                    if release.plan.sequencing == "client":
                        expire(api, release.plan, views[release.plan.release], utc_now())
                return _result(views.values())
            trouble = ""
        except (NotFoundError, NotPermittedError):
            raise
        except ClusterfitError as error:
            # A server that restarts is away for a minute; only what changes is said.
            if str(error) != trouble:
                trouble = str(error)
                say(f"{trouble}; trying again")
        if timeout_seconds and time.monotonic() - started > timeout_seconds:
            say(f"not over after {timeout_seconds:g} s")
            return TIMED_OUT
        stop.wait(_POLL_SECONDS)
    return 0


def _take_turn(
    api: Api, release: Release, views: list[StageView], bounds: dict[str, Bounds], say: Say
) -> None:
    released = release_next(api, release.plan, views)
    if released is not None:
        say(f"{released.stage}: released")
    for view in views:
        why = bounds[release.plan.release].check(view, utc_now())
        if why:
            say(f"{view.stage.stage}: stopped: {why}")


def _say_changes(views: list[StageView], said: dict[str, Phase], say: Say) -> None:
    for view in views:
        stage, state = view.stage.stage, view.state
        if said.get(stage) is not state.phase:
            said[stage] = state.phase
            why = (
                f": {state.message}" if state.message and state.phase is not Phase.SUCCEEDED else ""
            )
            say(f"{stage}: {state.phase.value}{why}")


def _result(all_views: Iterable[list[StageView]]) -> int:
    has_failed = any(view.state.phase is Phase.FAILED for views in all_views for view in views)
    return 1 if has_failed else 0
