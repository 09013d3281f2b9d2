"""Arithmetic that a recipe asks for is what its stage's network is run in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.artifacts.owner import claim
from clusterfit.config.loading import check_values
from clusterfit.config.stages import StageName
from clusterfit.worker.arguments import Assignment
from clusterfit.worker.context import Context
from clusterfit.worker.distenv import DistEnv
from clusterfit.worker.entry.samples import find_samples, fix_samples
from clusterfit.worker.log import Log
from clusterfit.worker.networks.small_resnet import SmallResNet
from clusterfit.worker.stages import pretext, train

PROGRAMS = {"pretext": pretext, "train": train}
IMAGES = [f"train/{number}.png" for number in range(4)]


@pytest.fixture
def looks() -> Iterator[list[tuple[bool, bool]]]:
    """Tell of each forward pass whether kernels are deterministic ones and whether it is bf16."""
    seen: list[tuple[bool, bool]] = []

    def look(module: torch.nn.Module, _inputs: Any) -> None:
        if isinstance(module, SmallResNet):
            is_bf16 = torch.is_autocast_enabled("cpu")
            assert torch.get_autocast_dtype("cpu") == torch.bfloat16
            seen.append((torch.are_deterministic_algorithms_enabled(), is_bf16))

    hook = register_module_forward_pre_hook(look)
    try:
        yield seen
    finally:
        hook.remove()
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("given", "is_deterministic", "is_bf16"),
    [
        ({}, False, True),
        ({"deterministic": True, "precision": "fp32"}, True, False),
        ({"deterministic": False, "precision": "bf16"}, False, True),
    ],
    ids=["defaults", "deterministic fp32", "bf16"],
)
@pytest.mark.parametrize("stage", ["pretext", "train"])
def test_networks_are_trained_as_the_recipe_says(
    stage: StageName,
    given: dict[str, Any],
    is_deterministic: bool,
    is_bf16: bool,
    env: DistEnv,
    log: Log,
    run_directory: RunDirectory,
    write_folder: Callable[..., Path],
    looks: list[tuple[bool, bool]],
) -> None:
    data_root = write_folder(*IMAGES)
    np.save(run_directory.storage_root / "clusters.npy", np.arange(len(IMAGES)) % 2)
    recipe = {"model": "resnet8_small", "epochs": 1, "schedule": "cosine", "cropPixels": 8}
    values = {
        "formatVersion": 1,
        "name": run_directory.name,
        "stages": [stage],
        "device": "cpu",
        "data": {"loadersPerRank": 0},
        "inputs": {"assignments": "clusters.npy"} if stage == "train" else {},
        stage: recipe | {"batchSizePerRank": len(IMAGES)} | given,
    }
    config = check_values(values).algorithm()
    assignment = Assignment(stage, config, data_root, run_directory, "")
    writer = claim(run_directory, stage, "submission")
    # Whatever another training in this process has left behind.
    torch.use_deterministic_algorithms(not is_deterministic)
    try:
        fix_samples(assignment, find_samples(assignment, 1), log, writer.check)
        PROGRAMS[stage].run(Context(assignment, env, log, writer))
    finally:
        writer.release()
    assert set(looks) == {(is_deterministic, is_bf16)}
