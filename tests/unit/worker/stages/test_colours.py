"""What train's network is shown differs by the colours that the recipe changes, and by nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from clusterfit.worker.networks.small_resnet import SmallResNet


def test_colours_change_by_a_factor_of_each_image(run_stage: Callable[..., None]) -> None:
    """With a brightness strength of 0.5 an image's colours are 0.5 to 1.5 times what they were."""
    plain, changed = (show(run_stage, strength) for strength in (0.0, 0.5))
    unclipped = (plain > 0.1) & (plain < 0.6)
    ratios = [
        (after[kept] / before[kept])
        for before, after, kept in zip(plain, changed, unclipped, strict=True)
    ]
    factors = [float(ratio.mean()) for ratio in ratios]
    for ratio, factor in zip(ratios, factors, strict=True):
        assert len(ratio) > 10
        torch.testing.assert_close(ratio, torch.full_like(ratio, factor), rtol=1e-3, atol=0)
    assert len({round(factor, 3) for factor in factors}) == len(factors), "each has its own"
    assert all(0.5 <= factor <= 1.5 for factor in factors)
    torch.testing.assert_close(changed, changed.clamp(0, 1))


def show(run_stage: Callable[..., None], brightness: float) -> torch.Tensor:
    """Return the (4, 3, 8, 8) images in 0..1 of the first step that counts."""
    seen: list[torch.Tensor] = []

    def look(module: torch.nn.Module, inputs: Any) -> None:
        if isinstance(module, SmallResNet) and float(inputs[0].abs().max()) > 0:
            seen.append(inputs[0].clone())

    hook = register_module_forward_pre_hook(look)
    try:
        changes = {"colorJitter": [brightness, 0, 0, 0]}
        data = {"loadersPerRank": 0, "mean": [0, 0, 0], "std": [1, 1, 1]}
        run_stage("train", changes, data=data, name=f"strength-{int(10 * brightness)}")
    finally:
        hook.remove()
    return seen[0]
