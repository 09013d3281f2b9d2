"""Networks by name, their layers, and feature extractors made of them.

n: images of a batch, D: feature_dim.
"""

from __future__ import annotations

import difflib
from typing import Any, Final, Literal, cast

import torch
from torch import nn
from torch.fx import Graph
from torch.fx.experimental.optimization import fuse
from torchvision import models, ops
from torchvision.models.feature_extraction import (
    create_feature_extractor,
    get_graph_node_names,
)

from clusterfit.errors import ConfigError
from clusterfit.worker.networks.small_resnet import SmallResNet
from clusterfit.worker.randomness import derive_seed, seeded

SMALL_RESNET: Final = "resnet8_small"

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
        ConfigError: when there is no such model.
    """
    names = list_model_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3)
        raise ConfigError(
            f"{path}: got {name}, want a torchvision classification model or {SMALL_RESNET}"
            + (f"; did you mean {' or '.join(near)}?" if near else "")
        )
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
            return model
        except (ValueError, AssertionError) as error:  # how transformers refuse a size
            raise ConfigError(f"{path}: {name} at {crop_pixels} pixels: {error}") from error


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
        """Cut the network after a layer.

        Args:
            model: with its weights loaded.
            layer: dotted name of a module or of a node of its graph, or one of `LAYER_ALIASES`.
            pooling: over spatial or token axes.
            precision: of the forward pass.
            fold_batch_norm: whether batch norms go into the convolutions before them.
            path: what the run file calls the layer, for the error.

        Raises:
            ConfigError: when the model has no such layer.
        """
        super().__init__()
        node = resolve_layer(model.eval(), layer, path)
        trunk = create_feature_extractor(
            model, return_nodes={node: "features"}, suppress_diff_warning=True
        ).eval()
        self._spatial_axes = (1, 2) if _has_channels_last(trunk) else (2, 3)
        # In place: a deep copy of a graph module comes back in training mode.
        self._trunk = fuse(trunk, inplace=True) if fold_batch_norm else trunk
        self._pooling = pooling
        self._precision = precision
        self.eval()

    @torch.inference_mode()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (n, D) float32 features of (n, 3, s, s) images."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            features = self._trunk(images)["features"]
        return _pool(features.float(), self._pooling, self._spatial_axes)


def resolve_layer(model: nn.Module, layer: str, path: str) -> str:
    """Return the graph node that a layer's name or alias means.

    Raises:
        ConfigError: when the model has no such layer; names near ones.
    """
    nodes = get_graph_node_names(model, suppress_diff_warning=True)[1]
    for name in (LAYER_ALIASES.get(layer, layer), layer):
        if _has_layer(nodes, name):
            return name
    aliases = [alias for alias, name in LAYER_ALIASES.items() if _has_layer(nodes, name)]
    modules = {node.rpartition(".")[0] for node in nodes} - {""}
    near = difflib.get_close_matches(layer, [*aliases, *sorted(modules), *nodes], n=3, cutoff=0.4)
    raise ConfigError(
        f"{path}: got {layer}, which {type(model).__name__} does not have; "
        f"among its layers are {', '.join(near or nodes[-4:])}"
    )


def _has_layer(nodes: list[str], layer: str) -> bool:
    return any(node == layer or node.startswith(f"{layer}.") for node in nodes)


def _has_channels_last(trunk: nn.Module) -> bool:
    """Tell whether four axes at the trunk's end are (n, H, W, C), as inside Swin and ConvNeXt.

    What was computed last on the way there tells: a convolution works along axis 1, a linear layer
    or a layer norm along the last.
    """
    modules = dict(trunk.named_modules())
    graph = cast(Graph, trunk.graph)
    node = next(node for node in graph.nodes if node.op == "output")
    while node.all_input_nodes:
        node = node.all_input_nodes[0]
        module = modules[str(node.target)] if node.op == "call_module" else None
        if isinstance(module, ops.Permute):
            return bool(module.dims[-1] == 1)
        if isinstance(module, (nn.Linear, ops.MLP)) or type(module) is nn.LayerNorm:
            return True
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            return False
    return False


def _pool(features: torch.Tensor, pooling: Pooling, spatial_axes: tuple[int, ...]) -> torch.Tensor:
    """Pool four axes over the spatial two, (n, tokens, C) over tokens; flatten what is left."""
    if pooling != "none" and features.dim() > 2:
        axes = spatial_axes if features.dim() == 4 else (1,)
        features = features.mean(axes) if pooling == "avg" else features.amax(axes)
    return features.flatten(1)  # (n, D)
