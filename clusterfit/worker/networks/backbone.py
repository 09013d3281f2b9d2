"""Networks by name, their layers, and feature extractors made of them.

n: images of a batch, D: feature_dim.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Final, Literal, Self, cast

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.optimization import fuse
from torchvision import models, ops
from torchvision.models.feature_extraction import (
    create_feature_extractor,
    get_graph_node_names,
)

from clusterfit.config.networks import SMALL_RESNET, explain_unknown
from clusterfit.errors import ConfigError
from clusterfit.worker.networks.small_resnet import SmallResNet
from clusterfit.worker.randomness import derive_seed, seeded

LAYER_ALIASES: Final = {
    "conv1": "relu",
    "res1": "maxpool",
    "res2": "layer1",
    "res3": "layer2",
    "res4": "layer3",
    "res5": "layer4",
    "res5avg": "avgpool",
}
"""VISSL's layer names -> torchvision's. VISSL's conv1 ends after batch norm and ReLU."""

Pooling = Literal["avg", "max", "none"]

_ORDINARY_PIXELS: Final = 224
"""Every network has a use for images of this size."""


def list_model_names() -> list[str]:
    """Return every name that `extract.model` and its like accept."""
    return [*models.list_models(module=models), SMALL_RESNET]


def build_model(name: str, num_classes: int, seed: int, crop_pixels: int, path: str) -> nn.Module:
    """Return a network with a fresh head, initialised from the seed.

    Args:
        name: a torchvision classification model, or `resnet8_small`.
        num_classes: size of the head.
        seed: of the initial weights; the same on every rank.
        crop_pixels: side of its images; vision transformers are built for one size.
        path: what the run file calls the name, for the error.

    Raises:
        ConfigError: when there is no such model, or it cannot take images of this size.
    """
    names = list_model_names()
    if name not in names:
        raise ConfigError(f"{path}: {explain_unknown(name, names)}")
    with seeded(derive_seed("weights", seed)):
        if name == SMALL_RESNET:
            return SmallResNet(num_classes)
        options: dict[str, Any] = {}
        if name.startswith("vit_"):
            options["image_size"] = crop_pixels
        if name.startswith("maxvit_"):
            options["input_size"] = (crop_pixels, crop_pixels)
        if name in {"googlenet", "inception_v3"}:
            options |= {"aux_logits": False, "init_weights": True}
        try:
            model: nn.Module = models.get_model(
                name, weights=None, num_classes=num_classes, **options
            )
            if crop_pixels < _ORDINARY_PIXELS:
                _try_size(model, crop_pixels)
            return model
        # How transformers refuse a size, and how others run out of pixels.
        except (ValueError, AssertionError, RuntimeError) as error:
            raise ConfigError(f"{path}: {name} at {crop_pixels} pixels: {error}") from error


def _try_size(model: nn.Module, crop_pixels: int) -> None:
    """Raise RuntimeError where a layer has no pixels left of such an image."""
    model.eval()
    with torch.inference_mode():
        model(torch.zeros(1, 3, crop_pixels, crop_pixels))
    model.train()


class Trunk(nn.Module):
    """Images -> what several layers of a frozen network put out, in one pass."""

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        precision: Literal["bf16", "fp32"],
        fold_batch_norm: bool,
        path: str,
    ) -> None:
        """Cut the network after its layers.

        Args:
            model: with its weights loaded.
            layers: dotted names of modules or of nodes of its graph, or keys of `LAYER_ALIASES`.
            precision: of the forward pass.
            fold_batch_norm: whether batch norms go into the convolutions before them.
            path: what the run file calls the layer, for the error.

        Raises:
            ConfigError: when the model has no such layer.
        """
        super().__init__()
        model.eval()
        self._nodes = resolve_layers(model, layers, path)
        cut = create_feature_extractor(
            model, return_nodes={node: node for node in self._nodes}, suppress_diff_warning=True
        ).eval()
        axes = _find_channel_axes(cut)
        self.channel_axes = tuple(axes[node] for node in self._nodes)
        """Of each layer's output, where that has four axes."""
        # In place: a deep copy of a graph module comes back in training mode.
        self._cut = fuse(cut, inplace=True) if fold_batch_norm else cut
        if len(set(self._nodes)) > 1:
            _keep_outputs(self._cut)
        self._precision = precision

    def train(self, mode: bool = True) -> Self:
        """Stay in inference mode: a frozen network has no other."""
        del mode
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return each layer's float32 output for (n, 3, s, s) images, as many axes as it has."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            outputs = self._cut(images)
        return [outputs[node].float() for node in self._nodes]


class Extractor(nn.Module):
    """Images -> (n, D) float32 features of one layer, in inference mode."""

    def __init__(
        self,
        model: nn.Module,
        layer: str,
        pooling: Pooling,
        precision: Literal["bf16", "fp32"],
        fold_batch_norm: bool,
        path: str,
    ) -> None:
        """Cut the network after a layer; `pooling` is over spatial or token axes. See `Trunk`."""
        super().__init__()
        self._trunk = Trunk(model, [layer], precision, fold_batch_norm, path)
        self._pooling = pooling
        self.eval()

    @torch.inference_mode()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (n, D) float32 features of (n, 3, s, s) images."""
        [features] = self._trunk(images)
        return pool(features, self._pooling, self._trunk.channel_axes[0])


def resolve_layers(model: nn.Module, layers: Sequence[str], path: str) -> list[str]:
    """Return the graph nodes that layers' names or aliases mean: the last of each module's.

    Raises:
        ConfigError: when the model has no such layer; names near ones.
    """
    nodes = get_graph_node_names(model, suppress_diff_warning=True)[1]
    return [_resolve_layer(model, nodes, layer, path) for layer in layers]


def _resolve_layer(model: nn.Module, nodes: list[str], layer: str, path: str) -> str:
    for name in (LAYER_ALIASES.get(layer, layer), layer):
        if within := [node for node in nodes if _is_within(node, name)]:
            return within[-1]
    aliases = [
        alias
        for alias, name in LAYER_ALIASES.items()
        if any(_is_within(node, name) for node in nodes)
    ]
    modules = {node.rpartition(".")[0] for node in nodes} - {""}
    near = difflib.get_close_matches(layer, [*aliases, *sorted(modules), *nodes], n=3, cutoff=0.4)
    raise ConfigError(
        f"{path}: got {layer}, which {type(model).__name__} does not have; "
        f"among its layers are {', '.join(near or nodes[-4:])}"
    )


def _is_within(node: str, layer: str) -> bool:
    return node == layer or node.startswith(f"{layer}.")


def _find_channel_axes(cut: nn.Module) -> dict[str, int]:
    """Return, for each output of four axes, whether they are (n, C, H, W): 1, or (n, H, W, C): 3.

    The latter is so inside Swin and ConvNeXt. What was computed last on the way there tells: a
    convolution works along axis 1, a linear layer or a layer norm along the last.
    """
    modules = dict(cut.named_modules())
    graph = cast(Graph, cut.graph)
    [outputs] = next(node for node in graph.nodes if node.op == "output").args
    return {name: _find_channel_axis(node, modules) for name, node in cast(Any, outputs).items()}


def _find_channel_axis(node: Node, modules: dict[str, nn.Module]) -> int:
    while True:
        module = modules[str(node.target)] if node.op == "call_module" else None
        if isinstance(module, ops.Permute):
            return 1 if module.dims[-1] != 1 else 3
        if isinstance(module, (nn.Linear, ops.MLP)) or type(module) is nn.LayerNorm:
            return 3
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)) or not node.all_input_nodes:
            return 1
        node = node.all_input_nodes[0]


def _keep_outputs(cut: nn.Module) -> None:
    """Let nothing be computed in place, so that a layer's output outlives the layers after it."""
    for module in cut.modules():
        if hasattr(module, "inplace"):
            setattr(module, "inplace", False)  # noqa: B010 - nn.Module declares no such attribute
    graph_module = cast(GraphModule, cut)
    for node in graph_module.graph.nodes:
        if node.kwargs.get("inplace"):
            node.update_kwarg("inplace", False)
    graph_module.recompile()


def pool(features: torch.Tensor, pooling: Pooling, channel_axis: int) -> torch.Tensor:
    """Pool four axes over the spatial two, (n, tokens, C) over tokens; flatten what is left."""
    if pooling != "none" and features.dim() > 2:
        axes = {4: (2, 3) if channel_axis == 1 else (1, 2)}.get(features.dim(), (1,))
        features = features.mean(axes) if pooling == "avg" else features.amax(axes)
    return features.flatten(1)  # (n, D)
