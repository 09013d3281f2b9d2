"""One look at a release: where each stage stands, and which one's turn it is.

The supervisor in the cluster and a client with `--follow` take the same looks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Final

from clusterfit.launch.api import Api, Resource
from clusterfit.launch.failures import NotFoundError
from clusterfit.launch.jobs import (
    JobState,
    Phase,
    expire_stage,
    read_state,
    read_time,
    release_stage,
    see_job,
)
from clusterfit.launch.manifests import Manifest
from clusterfit.launch.plan import Plan, PlannedStage, Release

INSTALL_SECONDS: Final = 15.0
"""Longer than it takes until all jobs of a release are made that somebody installs just now."""
_OVERDUE_SECONDS: Final = 15.0
"""Longer than two looks of the supervisor are apart."""


class RemovedError(NotFoundError):
    """A stage was removed before it had ended, so that nothing follows it."""


@dataclass(frozen=True, slots=True)
class StageView:
    """A stage and the state of its job."""

    stage: PlannedStage
    state: JobState


def look(api: Api, plan: Plan) -> Iterator[StageView]:
    """Yield the state of each stage, read now, as far as the supervisor can see."""
    for stage in plan.stages:
        yield StageView(stage, read_state(plan, stage, api.find(stage.resource, stage.name)))


def look_closely(
    api: Api, plan: Plan, find: Callable[[Resource, str], Manifest | None] | None = None
) -> Iterator[StageView]:
    """Yield the same as far as a user can see: also whether Kueue has given up a queued stage.

    Args:
        api: The namespace.
        plan: Of the release.
        find: Finds a job that was read already; left out: each is read now.
    """
    find = find or api.find
    for stage in plan.stages:
        job = find(stage.resource, stage.name)
        yield StageView(stage, see_job(api, plan, stage, job))


def find_next(views: Sequence[StageView]) -> StageView | None:
    """Return the held stage whose turn it is, if there is one."""
    for before, view in pairwise(views):
        if view.state.phase is Phase.HELD:
            return view if before.state.phase is Phase.SUCCEEDED else None
    return None


def find_overdue(views: Sequence[StageView], moment: datetime) -> StageView | None:
    """Return the held stage whose turn came a while ago, so that it should have been released."""
    due = find_next(views)
    if due is None:
        return None
    ended = views[views.index(due) - 1].state.finished
    if not ended or (moment - read_time(ended)).total_seconds() < _OVERDUE_SECONDS:
        return None
    return due


def is_over(views: Sequence[StageView]) -> bool:
    """Whether nothing will happen any more: the last one has succeeded, or one failed for good.

    What came before the last stage may have been removed since.
    """
    return views[-1].state.phase is Phase.SUCCEEDED or find_failed(views) is not None


def may_have_expired(release: Release, views: Sequence[StageView], moment: datetime) -> bool:
    """Whether all its stages are gone, and would be so a while after it had succeeded.

    Nothing is left that tells whether it had: somebody may have removed them before.
    Of a release that is just being made there is no job either.
    """
    is_gone = all(view.state.phase is Phase.MISSING for view in views)
    if not release.plan.ttl_seconds or not is_gone:
        return False
    return (moment - read_time(release.created)).total_seconds() > INSTALL_SECONDS


def find_failed(views: Iterable[StageView]) -> PlannedStage | None:
    """Return the stage that has failed for good, if there is one: what is held will not start."""
    return next((view.stage for view in views if view.state.phase is Phase.FAILED), None)


def find_given_up(views: Iterable[StageView]) -> PlannedStage | None:
    """Return the stage that was stopped, and not for a while: nothing goes on until a `resume`."""
    return next((view.stage for view in views if view.state.is_given_up), None)


def find_absent(views: Sequence[StageView]) -> PlannedStage | None:
    """Return the stage whose turn it is, where its job does not exist: not yet, or no longer."""
    waiting = (Phase.MISSING, Phase.HELD)
    begun = [place for place, view in enumerate(views) if view.state.phase not in waiting]
    if begun and views[begun[-1]].state.phase is not Phase.SUCCEEDED:
        return None
    after = views[begun[-1] + 1 :] if begun else views
    return next((view.stage for view in after[:1] if view.state.phase is Phase.MISSING), None)


class Absences:
    """Tells a job that was removed from one that is not there yet, by the time that it takes.

    A release is not made at once: the supervisor may look before all of its jobs exist.
    """

    def __init__(self, patience_seconds: float) -> None:
        """Give the jobs this long to appear."""
        self._patience_seconds = patience_seconds
        self._since: datetime | None = None

    def find_removed(self, views: Sequence[StageView], moment: datetime) -> PlannedStage | None:
        """Return the stage that was removed before it had ended, so that nothing follows it."""
        absent = find_absent(views)
        if absent is None:
            self._since = None
            return None
        self._since = self._since or moment
        is_removed = (moment - self._since).total_seconds() >= self._patience_seconds
        return absent if is_removed else None

    def check(self, views: Sequence[StageView], moment: datetime) -> None:
        """Raise RemovedError where a stage was removed before it had ended."""
        removed = self.find_removed(views, moment)
        if removed is not None:
            raise RemovedError(
                f"{removed.stage}: {removed.kind} {removed.name} was removed before anybody here "
                "saw how it ended, so nothing follows it; what it wrote is on the claim"
            )


def release_next(api: Api, plan: Plan, views: Sequence[StageView]) -> PlannedStage | None:
    """Release the stage whose turn it is and return it, if there is one."""
    due = find_next(views)
    if due is None:
        return None
    release_stage(api, plan, due.stage, due.state)
    return due.stage


def expire(api: Api, plan: Plan, views: Sequence[StageView], moment: datetime) -> None:
    """Let the stages of a release that succeeded be removed, if the run file says so: all at once.

    Kubernetes counts from the end of each. The chart cannot set this: a stage that is gone before
    its successor starts is taken for one that was never made. Where one has failed, all stay: those
    after it never end, so nothing would remove them, and without its job they would wait for it.
    """
    has_succeeded = is_over(views) and find_failed(views) is None
    if not plan.ttl_seconds or not has_succeeded:
        return
    for view in views:
        if view.state.finished:
            ended = (moment - read_time(view.state.finished)).total_seconds()
            with contextlib.suppress(NotFoundError):  # somebody has removed it by now
                expire_stage(api, view.stage, plan.ttl_seconds + max(0, round(ended)))
