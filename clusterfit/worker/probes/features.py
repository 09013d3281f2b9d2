"""Features with their labels, spread over ranks, and what they are judged by.

n: rows of this rank, N: rows of all ranks, D: feature_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist

from clusterfit.worker.distenv import DistEnv


@dataclass(frozen=True, slots=True)
class LabelledFeatures:
    """This rank's rows of one partition."""

    features: torch.Tensor
    """(n, D) float32."""
    labels: torch.Tensor
    """(n,) or (n, C) int64, on the same device."""
    sample_indices: torch.Tensor
    """(n,) int64, on the CPU."""


def broadcast_rows(
    own: LabelledFeatures, source: int, env: DistEnv
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one rank's (n, D) features and labels on every rank."""
    count = torch.tensor([len(own.features)], device=env.device)
    dist.broadcast(count, source)
    is_source = env.rank == source
    num_rows = int(count.item())
    features = (
        own.features.contiguous()
        if is_source
        else own.features.new_empty((num_rows, *own.features.shape[1:]))
    )
    labels = own.labels if is_source else own.labels.new_empty((num_rows, *own.labels.shape[1:]))
    dist.broadcast(features, source)
    dist.broadcast(labels, source)
    return features, labels


def gather_rows(own: LabelledFeatures, env: DistEnv) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the (N, D) features and the labels of all ranks, in their order, on every rank."""
    shares = [broadcast_rows(own, source, env) for source in range(env.world_size)]
    return torch.cat([features for features, _ in shares]), torch.cat(
        [labels for _, labels in shares]
    )


def compute_accuracy(predicted: torch.Tensor, labels: torch.Tensor, env: DistEnv) -> float:
    """Return the fraction of all ranks' (n,) predictions that are right."""
    correct = torch.tensor([float((predicted == labels).sum()), float(len(labels))])
    return divide(env.sum_tensor(correct))


def divide(counts: torch.Tensor) -> float:
    """Return correct / total of (2,) counts."""
    return float(counts[0] / counts[1].clamp_min(1))
