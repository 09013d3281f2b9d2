"""What a stage leaves is vouched for before its last barrier.

A rank that has passed it may end and be gone: should rank 0 die unpublished after that, it could
never meet its peers again.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.config.stages import StageName
from clusterfit.worker.distenv import DistEnv


@pytest.mark.parametrize("stage", ["pretext", "train"])
def test_a_training_is_published_before_its_last_barrier(
    stage: StageName,
    run_stage: Callable[..., None],
    run_directory: RunDirectory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    was_published: list[bool] = []
    manifest = run_directory.stage(stage) / "manifest.json"
    monkeypatch.setattr(DistEnv, "barrier", lambda _: was_published.append(manifest.exists()))
    run_stage(stage, {})
    assert was_published
    assert was_published[-1]
