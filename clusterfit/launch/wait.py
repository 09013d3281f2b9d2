"""Stay with a run until it is over, releasing its stages where nothing in the cluster does."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Final

from clusterfit.errors import ClusterfitError
from clusterfit.launch.api import Api
from clusterfit.launch.bounds import Bounds
from clusterfit.launch.failures import ClusterError, NotFoundError
from clusterfit.launch.jobs import Phase
from clusterfit.launch.patience import Forbearance
from clusterfit.launch.plan import Release
from clusterfit.launch.sequence import (
    INSTALL_SECONDS,
    Absences,
    RemovedError,
    StageView,
    expire,
    find_failed,
    find_given_up,
    find_overdue,
    is_over,
    look_closely,
    may_have_expired,
    release_next,
)
from clusterfit.launch.status import explain_stage

_POLL_SECONDS: Final = 2.0
_ASK_SECONDS: Final = 10.0
"""Between two questions why a stage is not released: each takes several requests."""
TIMED_OUT: Final = 124
"""What timeout(1) ends with."""

Say = Callable[[str], None]


def wait_for_run(
    api: Api,
    releases: Sequence[Release],
    say: Say,
    timeout_seconds: float = 0,
) -> int:
    """Wait until every release of a run is over, or was given up, and return its result.

    Args:
        api: The namespace.
        releases: Those of the run.
        say: Is told of each stage's changes.
        timeout_seconds: When to give up; 0: never.

    Returns:
        0 where all stages have succeeded; 1 where one has failed, was stopped by the supervisor or
        Kueue, or cancelled; 124 after the timeout.

    Raises:
        NotPermittedError: What it needs is refused, and that not by a server that has just come
            back.
        DeniedError: Admission refuses that a stage is released, and goes on refusing.
        NotFoundError: There is no release to wait for.
        RemovedError: A stage was removed before it had ended, or no stage is left that would tell
            how the run ended.
    """
    if not releases:
        raise NotFoundError(f"no release to wait for in namespace {api.namespace}")
    started = time.monotonic()
    said: dict[str, Phase] = {}
    told: set[str] = set()
    bounds = {release.plan.release: Bounds(api, release.plan) for release in releases}
    absences = {release.plan.release: Absences(INSTALL_SECONDS) for release in releases}
    idleness = _Idleness(api, say)
    trouble = ""
    forbearance = Forbearance()
    while True:
        try:
            views = {
                release.plan.release: list(look_closely(api, release.plan)) for release in releases
            }
            expired = {
                release.plan.release
                for release in releases
                if may_have_expired(release, views[release.plan.release], api.now())
            }
            if len(expired) == len(releases):
                raise RemovedError(
                    f"run {releases[0].plan.run}: its stages are gone, as some time after their "
                    "success (platform.ttlSecondsAfterFinished); nothing here tells how they "
                    "ended, but what they wrote is on the claim"
                )
            for release in releases:
                if release.plan.release in expired:
                    if release.plan.release not in told:
                        say(f"{release.plan.release}: its stages are gone; it is not waited for")
                        told.add(release.plan.release)
                    continue
                _say_changes(views[release.plan.release], said, say)
                if release.plan.sequencing == "client":
                    _take_turn(api, release, views[release.plan.release], bounds, say)
                else:
                    idleness.explain(release, views[release.plan.release])
                absences[release.plan.release].check(views[release.plan.release], api.now())
            if all(
                name in expired or is_over(each) or find_given_up(each)
                for name, each in views.items()
            ):
                return _end(api, releases, views, say)
            trouble = ""
            forbearance.allow()
        except NotFoundError:
            raise
        except ClusterfitError as error:
            if not forbearance.bears(error):
                raise
            # A server that restarts is away for a minute; only what changes is said.
            if str(error) != trouble:
                trouble = str(error)
                say(f"{trouble}; trying again")
        if timeout_seconds and time.monotonic() - started > timeout_seconds:
            say(f"not over after {timeout_seconds:g} s")
            return TIMED_OUT
        time.sleep(_POLL_SECONDS)


class _Idleness:
    """Says why a stage whose turn has come is not released, where the cluster is to do that."""

    def __init__(self, api: Api, say: Say) -> None:
        self._api = api
        self._say = say
        self._asked_at = time.monotonic()
        self._said = ""

    def explain(self, release: Release, views: list[StageView]) -> None:
        """Say what is new of why; nothing where it may not be read."""
        overdue = find_overdue(views, self._api.now())
        if overdue is None or time.monotonic() - self._asked_at < _ASK_SECONDS:
            return
        self._asked_at = time.monotonic()
        with contextlib.suppress(ClusterError):
            cause = explain_stage(self._api, release.plan, overdue.stage)
            text = f"{overdue.stage.stage}: {'; '.join(filter(None, (cause.text, cause.advice)))}"
            if cause.text and text != self._said:
                self._said = text
                self._say(text)


def _take_turn(
    api: Api, release: Release, views: list[StageView], bounds: dict[str, Bounds], say: Say
) -> None:
    released = release_next(api, release.plan, views)
    if released is not None:
        say(f"{released.stage}: released")
    for view in views:
        why = bounds[release.plan.release].check(view, api.now())
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


def _end(api: Api, releases: Sequence[Release], views: dict[str, list[StageView]], say: Say) -> int:
    code = 0
    for release in releases:
        own = views[release.plan.release]
        given_up = find_given_up(own)
        if given_up is not None:
            say(
                f"{given_up.stage}: goes on only after `clusterfit resume {release.plan.run}"
                f"{api.options}`"
            )
        elif release.plan.sequencing == "client":
            expire(api, release.plan, own, api.now())
        if given_up is not None or find_failed(own) is not None:
            code = 1
    return code
