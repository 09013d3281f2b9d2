"""Several layers of a frozen network at once, each pooled to a handy width.

n: images of a batch, C: channels, h, w: places after pooling.
"""

from __future__ import annotations

from math import prod

import torch
from torch import nn
from torch.nn import functional

from clusterfit.config.sections.evaluation import Evaluate, PooledLayer
from clusterfit.errors import ConfigError
from clusterfit.worker.networks.backbone import Trunk


class PooledTrunk(nn.Module):
    """Images -> (n, C, h, w) float32 for each layer.

    Attributes:
        shapes: (C, h, w) of each layer, for images of the size that it was built for.
    """

    def __init__(self, model: nn.Module, recipe: Evaluate) -> None:
        """Cut the network after the recipe's layers.

        Raises:
            ConfigError: when the model has no such layer, or one is smaller than its windows.
        """
        super().__init__()
        path, side = "evaluate.layers", recipe.crop_pixels
        names = [layer.layer for layer in recipe.layers]
        self._trunk = Trunk(model, names, recipe.precision, recipe.fold_batch_norm, path)
        self._layers = recipe.layers
        outputs = self._spread(torch.zeros(1, 3, side, side))
        self.shapes = tuple(
            _find_shape(layer, output.shape[1:], f"{path}.{number}", side)
            for number, (layer, output) in enumerate(zip(recipe.layers, outputs, strict=True))
        )
        self.eval()

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the layers' pooled outputs for (n, 3, s, s) images."""
        return [
            functional.avg_pool2d(output, layer.kernel, layer.stride, layer.padding)
            if layer.kernel
            else output
            for layer, output in zip(self._layers, self._spread(images), strict=True)
        ]

    def _spread(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return each layer's output as (n, C, h, w): tokens in a column, vectors in one place."""
        spread = []
        for output, axis in zip(self._trunk(images), self._trunk.channel_axes, strict=True):
            if output.dim() == 4:
                spread.append(output if axis == 1 else output.movedim(3, 1))
            elif output.dim() == 3:
                spread.append(output.transpose(1, 2)[..., None])  # (n, tokens, C)
            else:
                spread.append(output[:, :, None, None])
        return spread


def _find_shape(
    layer: PooledLayer, shape: torch.Size, path: str, crop_pixels: int
) -> tuple[int, int, int]:
    """Return (C, h, w) after pooling."""
    channels, height, width = shape
    if not layer.kernel:
        return channels, height, width
    pooled = layer.count_windows(height), layer.count_windows(width)
    if 0 in pooled:
        raise ConfigError(
            f"{path}.kernel: got {layer.kernel}, but {layer.layer} is {height} x {width} at "
            f"{crop_pixels} pixels; want a smaller kernel, or 0"
        )
    return channels, *pooled


class PooledFeatures(nn.Module):
    """Images -> (n, D) float32: the pooled layers side by side."""

    def __init__(self, trunk: PooledTrunk) -> None:
        """Flatten what a trunk gives."""
        super().__init__()
        self._trunk = trunk
        self.widths = tuple(prod(shape) for shape in trunk.shapes)
        """Of each layer in a row."""

    @torch.inference_mode()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features of (n, 3, s, s) images."""
        return torch.cat([output.flatten(1) for output in self._trunk(images)], 1)
