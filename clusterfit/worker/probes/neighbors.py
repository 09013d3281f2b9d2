"""The nearest labelled images' vote, shared over ranks.

n: rows of this rank, D: feature_dim, C: classes, q: queries of a chunk.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.distributed as dist
from torch.nn import functional

from clusterfit.worker.distenv import DistEnv
from clusterfit.worker.probes.features import LabelledFeatures, broadcast_rows, divide

_QUERY_CHUNK: Final = 1024


def vote_neighbors(
    train: LabelledFeatures,
    val: LabelledFeatures,
    num_classes: int,
    neighbors: int,
    temperature: float,
    env: DistEnv,
) -> float:
    """Return the val accuracy of a weighted vote among the most similar train images.

    Votes weigh exp(cosine similarity / temperature). Source: Wu et al., arXiv:1805.01978. Every
    rank looks among its own train rows for all queries; only the best few travel.
    """
    own = functional.normalize(train.features)
    hits = torch.zeros(2, dtype=torch.float64)
    for source in range(env.world_size):
        queries, labels = broadcast_rows(val, source, env)
        for start in range(0, len(queries), _QUERY_CHUNK):
            chunk = functional.normalize(queries[start : start + _QUERY_CHUNK])
            votes = _vote(chunk, own, train.labels, num_classes, neighbors, temperature, env)
            if env.is_main_rank:
                correct = votes.argmax(1) == labels[start : start + _QUERY_CHUNK]
                hits += torch.tensor([float(correct.sum()), float(len(correct))])
    return divide(env.sum_tensor(hits))


def _vote(
    queries: torch.Tensor,
    own: torch.Tensor,
    own_labels: torch.Tensor,
    num_classes: int,
    neighbors: int,
    temperature: float,
    env: DistEnv,
) -> torch.Tensor:
    """Return (q, C) votes for (q, D) normalised queries, from all ranks' rows."""
    shape = (len(queries), neighbors)
    best = torch.full(shape, -torch.inf, device=queries.device)
    best_labels = torch.zeros(shape, dtype=torch.int64, device=queries.device)
    if len(own):
        found, positions = (queries @ own.T).topk(min(neighbors, len(own)), dim=1)
        best[:, : found.shape[1]] = found
        best_labels[:, : found.shape[1]] = own_labels[positions]
    all_best = [torch.empty_like(best) for _ in range(env.world_size)]
    all_labels = [torch.empty_like(best_labels) for _ in range(env.world_size)]
    dist.all_gather(all_best, best)
    dist.all_gather(all_labels, best_labels)
    similarities, order = torch.cat(all_best, 1).topk(neighbors, dim=1)  # (q, neighbors)
    labels = torch.cat(all_labels, 1).gather(1, order)
    # Relative to the best, so that a low temperature does not overflow.
    weights = ((similarities - similarities[:, :1]) / temperature).exp()
    votes = torch.zeros(len(queries), num_classes, device=queries.device)
    return votes.scatter_add_(1, labels, weights)
