"""Load timm's networks as torchvision's and compare what both compute, bit for bit.

timm is not a dependency: run this where `pip install timm` is, after spelling.py was touched.

    python scripts/compare_with_timm.py          # compare
    python scripts/compare_with_timm.py --write  # and write the keys that the tests go by
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import timm  # type: ignore[import-not-found]
import torch
from torch import nn
from torchvision import models

from clusterfit.config.sections.inputs import Weights
from clusterfit.interop.weights import load_backbone_weights

PAIRS = {
    "convnext_tiny": "convnext_tiny",
    "densenet121": "densenet121",
    "efficientnet_b0": "efficientnet_b0",
    "regnetx_008": "regnet_x_800mf",
    "regnety_004": "regnet_y_400mf",
    "resnet50": "resnet50",
    "resnext50_32x4d": "resnext50_32x4d",
    "swin_tiny_patch4_window7_224": "swin_t",
    "vit_base_patch16_224": "vit_b_16",
}
KEYS = Path(__file__).parents[1] / "tests" / "unit" / "interop" / "timm_keys.json"
TOLERANCE = {"vit_b_16": 1e-5}
"""timm's attention rounds otherwise; all others are equal to the last bit."""


def fill(model: nn.Module) -> None:
    """Give every tensor values of its own, so that none can stand for another."""
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            spread = torch.rand_like(value)
            value.copy_(spread + 0.5 if "var" in key else (spread - 0.5) / 5)


def compare(theirs: str, ours: str) -> tuple[float, dict[str, list[int]]]:
    """Return the largest difference of the logits, and timm's keys with their shapes."""
    torch.manual_seed(0)
    source = timm.create_model(theirs, pretrained=False, num_classes=10).eval()
    fill(source)
    target = models.get_model(ours, weights=None, num_classes=10).eval()
    with tempfile.NamedTemporaryFile(suffix=".pth") as file, torch.no_grad():
        torch.save(source.state_dict(), file.name)
        settings: Any = {"from": "path", "path": "weights.pth"}
        load_backbone_weights(target, Path(file.name), Weights.model_validate(settings))
        images = torch.rand(2, 3, 224, 224)
        logits = source(images)
        assert logits.isfinite().all()
        assert logits.std() > 0
        difference = float((logits - target(images)).abs().max() / logits.abs().max())
    return difference, {key: list(value.shape) for key, value in source.state_dict().items()}


def is_same(ours: str, theirs: dict[str, list[int]]) -> bool:
    """Tell whether torchvision has the same keys, so that there is nothing to rename."""
    return set(models.get_model(ours, weights=None).state_dict()) == set(theirs)


def main() -> None:
    """Compare every pair; end with 1 where one differs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    keys, is_equal = {}, True
    for theirs, ours in PAIRS.items():
        difference, keys[theirs] = compare(theirs, ours)
        is_equal &= difference <= TOLERANCE.get(ours, 0.0)
        print(f"{theirs:32} {ours:20} largest relative difference {difference:g}", flush=True)
    if write:
        renamed = {
            name: keys[name] for name, ours in PAIRS.items() if not is_same(ours, keys[name])
        }
        content = {"timm": timm.__version__, "models": renamed}
        KEYS.write_text(json.dumps(content, separators=(",", ":")) + "\n")
    if not is_equal:
        raise SystemExit("not equal")


if __name__ == "__main__":
    main()
