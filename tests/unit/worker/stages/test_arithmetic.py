"""Arithmetic that a recipe asks for is what its stage's network is run in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

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
    run_training: Callable[..., None],
    looks: list[tuple[bool, bool]],
) -> None:
    # Whatever another training in this process has left behind.
    torch.use_deterministic_algorithms(not is_deterministic)
    run_training(stage, given)
    assert set(looks) == {(is_deterministic, is_bf16)}
