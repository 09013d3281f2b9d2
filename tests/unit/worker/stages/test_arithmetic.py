"""Arithmetic that a recipe asks for is what its stage's network is run in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.config.stages import StageName
from clusterfit.worker.networks.small_resnet import SmallResNet


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
    run_stage: Callable[..., None],
    looks: list[tuple[bool, bool]],
) -> None:
    # Whatever another training in this process has left behind.
    torch.use_deterministic_algorithms(not is_deterministic)
    run_stage(stage, given)
    assert set(looks) == {(is_deterministic, is_bf16)}


@pytest.mark.parametrize("is_channels_last", [True, False])
@pytest.mark.parametrize("stage", ["pretext", "extract", "train"])
def test_images_and_weights_lie_as_the_recipe_says(
    stage: StageName, is_channels_last: bool, run_stage: Callable[..., None]
) -> None:
    seen = set()

    def look(module: torch.nn.Module, inputs: Any) -> None:
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3):
            for tensor in (inputs[0], module.weight):
                seen.add(tensor.is_contiguous(memory_format=torch.channels_last))

    hook = register_module_forward_pre_hook(look)
    try:
        run_stage(stage, {"channelsLast": is_channels_last})
    finally:
        hook.remove()
    assert seen == {is_channels_last}


@pytest.mark.parametrize("is_folded", [True, False])
def test_batch_norms_are_folded_where_the_recipe_says_so(
    is_folded: bool, run_stage: Callable[..., None]
) -> None:
    kinds = set()
    hook = register_module_forward_pre_hook(lambda module, _inputs: kinds.add(type(module)))
    try:
        run_stage("extract", {"foldBatchNorm": is_folded})
    finally:
        hook.remove()
    assert torch.nn.Conv2d in kinds
    assert (torch.nn.BatchNorm2d in kinds) is not is_folded


@pytest.mark.parametrize("stage", ["pretext", "train"])
def test_as_many_checkpoints_stay_as_the_recipe_says(
    stage: StageName, run_stage: Callable[..., None], run_directory: RunDirectory
) -> None:
    run_stage(stage, {"epochs": 6, "checkpointEverySteps": 1, "keepCheckpoints": 3})
    kept = sorted(path.name for path in (run_directory.stage(stage) / "checkpoints").iterdir())
    assert len(kept) == 3
    assert [int("".join(filter(str.isdigit, name))) for name in kept] == [3, 4, 5]
