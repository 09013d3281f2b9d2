"""Stages of this process alone, of a few images and one epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.artifacts.owner import claim
from clusterfit.config.loading import check_values
from clusterfit.config.stages import StageName
from clusterfit.worker.arguments import Assignment
from clusterfit.worker.context import Context
from clusterfit.worker.distenv import DistEnv
from clusterfit.worker.entry.samples import find_samples, fix_samples
from clusterfit.worker.log import Log
from clusterfit.worker.stages import extract, pretext, train

PROGRAMS = {"pretext": pretext, "extract": extract, "train": train}
RECIPES: dict[str, dict[str, Any]] = {
    stage: {"model": "resnet8_small", "cropPixels": 8}
    | (
        {"weights": {"from": "random"}, "resizePixels": 8}
        if stage == "extract"
        else {"epochs": 1, "schedule": "cosine"}
    )
    for stage in PROGRAMS
}
IMAGES = [f"train/{number}.png" for number in range(4)]


@pytest.fixture
def run_stage(
    env: DistEnv, log: Log, run_directory: RunDirectory, write_folder: Callable[..., Path]
) -> Callable[[StageName, dict[str, Any]], None]:
    """Run a stage with changes to its recipe and others, in the test's run directory."""
    data_root = write_folder(*IMAGES)
    np.save(run_directory.storage_root / "clusters.npy", np.arange(len(IMAGES)) % 2)

    def run(stage: StageName, changes: dict[str, Any], **others: Any) -> None:
        values = {
            "formatVersion": 1,
            "name": run_directory.name,
            "stages": [stage],
            "device": "cpu",
            "data": {"loadersPerRank": 0},
            "inputs": {"assignments": "clusters.npy"} if stage == "train" else {},
            stage: RECIPES[stage] | {"batchSizePerRank": len(IMAGES)} | changes,
            **others,
        }
        config = check_values(values).algorithm()
        assignment = Assignment(stage, config, data_root, run_directory, "")
        writer = claim(run_directory, stage, "submission")
        try:
            fix_samples(assignment, find_samples(assignment, 1), log, writer.check)
            PROGRAMS[stage].run(Context(assignment, env, log, writer))
        finally:
            writer.release()

    return run
