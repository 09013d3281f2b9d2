"""Networks and the layouts in which other projects save them, written down independently."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

Save = Callable[[object], Path]


class SmallNet(nn.Module):
    """Four layers with the key names of a ResNet: conv1, bn1, layer1.0.conv1, fc."""

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(nn.Sequential())
        self.layer1[0].add_module("conv1", nn.Conv2d(4, 8, 3, bias=False))
        self.fc = nn.Linear(8, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return one row of logits an image."""
        hidden = self.layer1(self.bn1(self.conv1(images)).relu())
        logits: Tensor = self.fc(hidden.mean((2, 3)))
        return logits


def _build(seed: int, constructor: Callable[[], nn.Module]) -> nn.Module:
    """Build a network whose every tensor is its own, batch statistics included."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = constructor()
        with torch.no_grad():
            for key, value in model.state_dict().items():
                if "running" in key or "bn" in key:
                    value.copy_(torch.rand(value.shape) + 0.5)
    return model.eval()


@pytest.fixture
def small_net() -> Callable[..., nn.Module]:
    """Build a small network from a seed."""
    return lambda seed, num_classes=5: _build(seed, lambda: SmallNet(num_classes))


@pytest.fixture
def net18() -> Callable[[int], nn.Module]:
    """Build a ResNet-18 from a seed."""
    return lambda seed: _build(seed, lambda: resnet18(num_classes=10))


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write an object with torch.save."""

    def write(content: object) -> Path:
        path = tmp_path / f"weights-{len(list(tmp_path.iterdir()))}.torch"
        torch.save(content, path)
        return path

    return write


@pytest.fixture
def images() -> Tensor:
    """Return two small images, (2, 3, 32, 32) float32."""
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(9))


@pytest.fixture
def vissl_checkpoint() -> Callable[..., dict[str, object]]:
    """Lay a network out as VISSL's training engine saves it.

    Source: `get_classy_state` in vissl/models/base_ssl_model.py, `feature blocks` in
    vissl/models/trunks/resnext.py, heads of type mlp in vissl/models/heads/mlp.py.
    """

    def lay_out(model: nn.Module, trunk_prefix: str = "_feature_blocks.") -> dict[str, object]:
        state = model.state_dict()
        trunk = {trunk_prefix + key: state[key] for key in state if not key.startswith("fc.")}
        heads = {"0.clf.0.weight": state["fc.weight"], "0.clf.0.bias": state["fc.bias"]}
        return {
            "phase_idx": 104,
            "iteration": 525_524,
            "loss": {},
            "iteration_num": 525_524,
            "train_phase_idx": 104,
            "type": "consolidated",
            "classy_state_dict": {
                "train": True,
                "base_model": {
                    "model": {"trunk": trunk, "heads": heads},
                    "meta": {"trunk": {}, "heads": []},
                },
                "meters": [{"name": "accuracy", "total_count": torch.tensor(3.0)}],
                "optimizer": {"optim": {"state": {0: {"momentum_buffer": torch.ones(3)}}}},
                "losses": [0.5],
                "hooks": {},
            },
        }

    return lay_out


@pytest.fixture
def fresh_python() -> Callable[[str], str]:
    """Run code in a new interpreter and return what it printed."""

    def run(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
        )
        return done.stdout.strip()

    return run
