"""Linear classifiers on several frozen layers: batch norm, then one linear layer each.

Source: VISSL's linear benchmark, after Goyal et al., arXiv:1905.01235.
n: images of a batch, H: heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import nn

from clusterfit.worker.probes.batch_norm import CrossRankBatchNorm
from clusterfit.worker.randomness import derive_seed, seeded


class Heads(nn.Module):
    """Pooled outputs of H layers -> (n, H, num_classes) logits."""

    def __init__(self, shapes: Sequence[tuple[int, ...]], num_classes: int, seed: int) -> None:
        """Build a head for each (C, h, w), initialised from the seed."""
        super().__init__()
        with seeded(derive_seed("heads", seed)):
            self.heads = nn.ModuleList(
                nn.Sequential(
                    CrossRankBatchNorm(shape[0]),
                    nn.Flatten(),
                    nn.Linear(prod(shape), num_classes),
                )
                for shape in shapes
            )

    def forward(self, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the logits for each layer's (n, C, h, w)."""
        pairs = zip(self.heads, outputs, strict=True)
        return torch.stack([head(output) for head, output in pairs], dim=1)


def count_hits(logits: torch.Tensor, labels: torch.Tensor, best: int) -> torch.Tensor:
    """Return (H,): how often the label is among each head's `best` guesses.

    Args:
        logits: (n, H, num_classes).
        labels: (n,) int64.
        best: how many guesses count; all classes where there are fewer.
    """
    guesses = logits.topk(min(best, logits.shape[2]), dim=2).indices  # (n, H, best)
    return (guesses == labels[:, None, None]).any(2).sum(0)
