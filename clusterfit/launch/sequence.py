"""One look at a release: where each stage stands, and which one's turn it is.

The supervisor in the cluster and a client with `--follow` take the same looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from clusterfit.launch.api import Api
from clusterfit.launch.jobs import JobState, Phase, read_state, release_stage
from clusterfit.launch.plan import Plan, PlannedStage


@dataclass(frozen=True, slots=True)
class StageView:
    """A stage and the state of its job."""

    stage: PlannedStage
    state: JobState


def look(api: Api, plan: Plan) -> Iterator[StageView]:
    """Yield the state of each stage, read now."""
    for stage in plan.stages:
        yield StageView(stage, read_state(plan, stage, api.find(stage.resource, stage.name)))


def find_next(views: list[StageView]) -> PlannedStage | None:
    """Return the held stage whose turn it is, if there is one."""
    for view in views:
        if view.state.phase is Phase.HELD:
            return view.stage
        if view.state.phase is not Phase.SUCCEEDED:
            return None
    return None


def is_over(views: list[StageView]) -> bool:
    """Whether nothing will happen any more: all have succeeded, or one has failed for good."""
    phases = [view.state.phase for view in views]
    return Phase.FAILED in phases or all(phase is Phase.SUCCEEDED for phase in phases)


def find_failed(views: Iterable[StageView]) -> PlannedStage | None:
    """Return the stage that has failed for good, if there is one: what is held will not start."""
    return next((view.stage for view in views if view.state.phase is Phase.FAILED), None)


def release_next(api: Api, plan: Plan, views: list[StageView]) -> PlannedStage | None:
    """Release the stage whose turn it is and return it, if there is one."""
    stage = find_next(views)
    if stage is not None:
        release_stage(api, plan, stage)
    return stage
