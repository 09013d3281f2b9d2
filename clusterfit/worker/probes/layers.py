"""Several layers of a frozen network at once, each pooled to a handy width.

n: images of a batch, C: channels, h, w: places after pooling.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from clusterfit.config.tree import PooledLayer
from clusterfit.errors import ConfigError
from clusterfit.worker.networks.backbone import Trunk


class PooledTrunk(nn.Module):
    """Images -> (n, C, h, w) float32 for each layer.

    Attributes:
        shapes: (C, h, w) of each layer, for images of the size that it was built for.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[PooledLayer],
        crop_pixels: int,
        precision: Literal["bf16", "fp32"],
        fold_batch_norm: bool,
        path: str,
    ) -> None:
        """Cut the network after its layers; `path` is what the run file calls them.

        Raises:
            ConfigError: when the model has no such layer, or one is smaller than its windows.
        """
        super().__init__()
        names = [layer.layer for layer in layers]
        self._trunk = Trunk(model, names, precision, fold_batch_norm, path)
        self._layers = tuple(layers)
        blank = torch.zeros(2, 3, crop_pixels, crop_pixels)
        for number, (layer, output) in enumerate(zip(layers, self._spread(blank), strict=True)):
            height, width = output.shape[2:]
            if layer.kernel and not layer.count_windows(min(height, width)):
                raise ConfigError(
                    f"{path}.{number}.kernel: got {layer.kernel}, but {layer.layer} is {height} x "
                    f"{width} at {crop_pixels} pixels; want a smaller kernel, or 0"
                )
        self.shapes = tuple(tuple(output.shape[1:]) for output in self(blank))
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
