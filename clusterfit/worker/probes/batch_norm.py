"""Batch norm over the images of all ranks, on GPUs and on CPUs: torch's own is for GPUs alone.

n: images of a batch on this rank, C: channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.function import once_differentiable


class _SumOverRanks(torch.autograd.Function):
    """all_reduce, with the gradient that it has: what flows back to one rank came from all."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of all ranks' values."""
        del ctx
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """Return the sum of all ranks' gradients."""
        del ctx
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class CrossRankBatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d whose statistics are those of the global batch, as in VISSL's benchmark.

    So the heads do not depend on how many ranks share a batch. Every rank has equally many images.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (n, C, h, w) normalised, and keep running statistics while training."""
        if not self.training:
            return super().forward(images)
        num_places = images.numel() // images.shape[1] * dist.get_world_size()
        # Around the running mean, so that a large mean does not cancel a small variance.
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        origin = self.running_mean.detach().clone()
        centred = images - origin[:, None, None]
        sums = torch.cat([centred.sum((0, 2, 3)), centred.square().sum((0, 2, 3))])
        mean, square = (_sum_over_ranks(sums) / num_places).chunk(2)
        variance = (square - mean.square()).clamp_min(0)
        with torch.no_grad():
            unbiased = variance * num_places / max(num_places - 1, 1)
            self.running_mean.lerp_(mean + origin, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return centred * scale[:, None, None] + shift[:, None, None]


def _sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    total: torch.Tensor = _SumOverRanks.apply(values)
    return total
