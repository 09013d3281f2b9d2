"""The table of `clusterfit status`."""

from __future__ import annotations

from dataclasses import replace

from clusterfit.cli.runs import _format_status
from clusterfit.launch.causes import Cause
from clusterfit.launch.jobs import Phase
from clusterfit.launch.status import RunStatus, StageStatus
from clusterfit.logline import Progress


def build_stage(stage: str, phase: Phase, running_pods: int) -> StageStatus:
    return StageStatus("digits-step1", stage, phase, running_pods, 2, 0, None, Cause("", ""))


def test_pods_are_counted_until_a_stage_is_done() -> None:
    stages = (
        build_stage("extract", Phase.SUCCEEDED, 0),
        build_stage("cluster", Phase.RUNNING, 1),
        build_stage("train", Phase.HELD, 0),
    )
    _, _, head, *rows = _format_status(RunStatus("digits", "ns", stages)).splitlines()
    column = head.split().index("PODS")
    assert [row.split()[column] for row in rows[:3]] == ["-", "1/2", "0/2"]


def test_a_cause_comes_with_what_to_do() -> None:
    cause = Cause("no node fits", "ask for less")
    stage = replace(build_stage("extract", Phase.STARTING, 1), cause=cause)
    shown = _format_status(RunStatus("digits", "ns", (stage,)))
    assert shown.endswith("\nextract: no node fits\n  -> ask for less")


def test_the_time_left_is_in_hours_where_it_is_more_than_one() -> None:
    progress = Progress("train", 100, 1000, "steps", 0.003472, eta_seconds=259200)
    stage = replace(build_stage("train", Phase.RUNNING, 2), progress=progress)
    shown = _format_status(RunStatus("digits", "ns", (stage,)))
    assert "10 % (100/1000 steps, 0.003472/s, 72:00:00 to go)" in shown
