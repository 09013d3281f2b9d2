"""The table of `clusterfit status`."""

from __future__ import annotations

from clusterfit.cli.runs import _format_status
from clusterfit.launch.causes import Cause
from clusterfit.launch.jobs import Phase
from clusterfit.launch.status import RunStatus, StageStatus


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
