"""Write clusterfit/config/networks.json: what plans need to know of each network, from torchvision.

A plan has no torch to ask. Takes about a minute.

Run: .venv/bin/python scripts/write_networks.py [--check]
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.models.feature_extraction import get_graph_node_names

from clusterfit.worker.networks.backbone import (
    LAYER_ALIASES,
    Trunk,
    build_model,
    list_model_names,
    pool,
)

TARGET: Final = Path(__file__).parents[1] / "clusterfit" / "config" / "networks.json"
_SIDE: Final = 224
"""Pixels."""

_HEADS: Final = {"classifier", "heads"}
"""Parts that are built for a number of classes."""


def measure_network(name: str) -> dict[str, Any]:
    """Return a network's sizes.

    A head of C classes adds `parameters_per_class` * C to `parameters`. Buffers, such as a batch
    norm's statistics, are in every weights file. `features` are each layer's channels and, before
    they are pooled, the number of places at 224 pixels.
    """
    per_class = _count_parameters(_build(name, 3)) - _count_parameters(_build(name, 2))
    model = _build(name, 2)
    layers = _list_layers(model)
    trunk = Trunk(model, layers, "fp32", fold_batch_norm=False, path="layer")
    with FakeTensorMode(allow_non_fake_inputs=True):  # shapes only
        outputs = trunk(torch.empty(2, 3, _SIDE, _SIDE))
    features = [
        _describe(output, axis) for output, axis in zip(outputs, trunk.channel_axes, strict=True)
    ]
    return {
        "parameters": _count_parameters(model) - 2 * per_class,
        "parameters_per_class": per_class,
        "tensors": len(model.state_dict()),
        "buffer_bytes": sum(buffer.nbytes for buffer in _list_buffers(model)),
        "features": dict(zip(layers, features, strict=True)),
    }


def _describe(output: torch.Tensor, channel_axis: int) -> list[int]:
    """Return a layer's channels and, where it is an image or tokens, how many places have them."""
    channels = pool(output, "avg", channel_axis).shape[1]
    return [channels, output[0].numel() // channels] if output.dim() > 2 else [channels]


def _build(name: str, num_classes: int) -> nn.Module:
    """Return the network with whatever numbers: drawing them takes most of the time."""
    drawn = ("kaiming_normal_", "kaiming_uniform_", "normal_", "trunc_normal_", "uniform_")
    with ExitStack() as undrawn:
        for function in drawn:
            patched = patch(f"torch.nn.init.{function}", lambda tensor, *_, **__: tensor)
            undrawn.enter_context(patched)
        return build_model(name, num_classes, 0, _SIDE, "model")


def _list_layers(model: nn.Module) -> list[str]:
    """Return the layers that run files name: aliases, parts of the network, what precedes it."""
    nodes = get_graph_node_names(model, suppress_diff_warning=True)[1]
    children = {name: part for name, part in model.named_children() if name not in _HEADS}
    parts = [name for name, part in children.items() if any(True for _ in part.children())]
    deeper = [
        f"{name}.{child}"
        for name, part in children.items()
        if isinstance(part, nn.Sequential)
        for child, _ in part.named_children()
    ]
    names = dict.fromkeys([*LAYER_ALIASES, "flatten", "avgpool", *parts, *deeper, "encoder.ln"])
    return [
        name
        for name in names
        if any(f"{node}.".startswith(f"{LAYER_ALIASES.get(name, name)}.") for node in nodes)
    ]


def _list_buffers(model: nn.Module) -> list[torch.Tensor]:
    """Return the buffers that a state dict holds."""
    parameters = {name for name, _ in model.named_parameters()}
    return [value for name, value in model.state_dict().items() if name not in parameters]


def _count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def format_table(networks: dict[str, dict[str, Any]]) -> str:
    """Return the file's text: one network a line."""
    origin = f"scripts/write_networks.py, torchvision {importlib.metadata.version('torchvision')}"
    lines = ",\n".join(
        f"    {json.dumps(name)}: {json.dumps(sizes)}" for name, sizes in networks.items()
    )
    return f'{{\n  "origin": {json.dumps(origin)},\n  "networks": {{\n{lines}\n  }}\n}}\n'


def main() -> int:
    """Write the file, or with --check say whether it is stale."""
    text = format_table({name: measure_network(name) for name in list_model_names()})
    if sys.argv[1:] == ["--check"]:
        if TARGET.read_text(encoding="utf-8") == text:
            return 0
        print(f"{TARGET.name}: not what torchvision measures; run {Path(__file__).name}")
        return 1
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
