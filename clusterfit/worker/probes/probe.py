"""Linear probe and nearest neighbours on frozen features, shared over ranks.

n: rows of this rank, N: rows of all ranks, D: feature_dim, C: classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, cast

import torch
import torch.distributed as dist
from torch.nn import functional

from clusterfit.worker.distenv import DistEnv

_MAX_ITERATIONS: Final = 300
_GRADIENT_TOLERANCE: Final = 1e-5
_QUERY_CHUNK: Final = 1024


@dataclass(frozen=True, slots=True)
class LabelledFeatures:
    """This rank's rows of one partition."""

    features: torch.Tensor
    """(n, D) float32."""
    labels: torch.Tensor
    """(n,) int64, on the same device."""
    sample_indices: torch.Tensor
    """(n,) int64, on the CPU."""


def probe_linear(
    train: LabelledFeatures,
    val: LabelledFeatures,
    num_classes: int,
    l2_penalty: float,
    env: DistEnv,
) -> float:
    """Return the val accuracy of multinomial logistic regression on standardised features.

    The loss is the mean cross-entropy over all ranks' rows plus `l2_penalty / 2` times the squared
    norm of the weights (not of the bias), minimised by L-BFGS to a gradient below 1e-5. It is
    convex, so the result does not depend on a seed, nor, up to rounding, on the world size.
    """
    mean, scale, num_rows = _standardise(train.features, env)
    rows = (train.features - mean) * scale
    dim = rows.shape[1]
    # Flat, so that L-BFGS sees one vector and ranks reduce one tensor: (C, D) weights, (C,) bias.
    parameters = torch.zeros(num_classes * (dim + 1), device=rows.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [parameters],
        max_iter=_MAX_ITERATIONS,
        tolerance_grad=_GRADIENT_TOLERANCE,
        tolerance_change=1e-9,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def split(flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return flat[: num_classes * dim].view(num_classes, dim), flat[num_classes * dim :]

    def closure() -> float:
        """Set the gradient of the global loss, and return the loss."""
        parameters.grad = None
        weights, bias = split(parameters)
        logits = functional.linear(rows, weights, bias)
        loss = functional.cross_entropy(logits, train.labels, reduction="sum") / num_rows
        loss.backward()
        assert parameters.grad is not None
        reduced = torch.cat([parameters.grad.detach(), loss.detach()[None]])
        dist.all_reduce(reduced)
        with torch.no_grad():
            parameters.grad.copy_(reduced[:-1])
            gradient, _ = split(parameters.grad)
            gradient.add_(weights, alpha=l2_penalty)
            return float(reduced[-1] + l2_penalty / 2 * weights.square().sum())

    optimizer.step(cast(Any, closure))
    with torch.no_grad():
        weights, bias = split(parameters)
        logits = functional.linear((val.features - mean) * scale, weights, bias)
        return _accuracy(logits.argmax(1), val.labels, env)


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
        queries, labels = _broadcast_rows(val, source, env)
        for start in range(0, len(queries), _QUERY_CHUNK):
            chunk = functional.normalize(queries[start : start + _QUERY_CHUNK])
            votes = _vote(chunk, own, train.labels, num_classes, neighbors, temperature, env)
            if env.is_main_rank:
                correct = votes.argmax(1) == labels[start : start + _QUERY_CHUNK]
                hits += torch.tensor([float(correct.sum()), float(len(correct))])
    return _divide(env.sum_tensor(hits))


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


def _broadcast_rows(
    own: LabelledFeatures, source: int, env: DistEnv
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one rank's (n, D) features and (n,) labels on every rank."""
    count = torch.tensor([len(own.features)], device=env.device)
    dist.broadcast(count, source)
    is_source = env.rank == source
    shape = (int(count.item()), own.features.shape[1])
    features = own.features.contiguous() if is_source else own.features.new_empty(shape)
    labels = own.labels if is_source else own.labels.new_empty(shape[0])
    dist.broadcast(features, source)
    dist.broadcast(labels, source)
    return features, labels


def _standardise(rows: torch.Tensor, env: DistEnv) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return (D,) mean and (D,) 1 / standard deviation over all ranks' rows, and their number.

    Two passes, so that a large mean does not cancel a small variance.
    """
    num_rows = float(env.sum_tensor(torch.tensor([len(rows)])).item())
    mean = (env.sum_tensor(rows.sum(0, dtype=torch.float64)) / num_rows).to(rows)
    squares = env.sum_tensor((rows - mean).square().sum(0, dtype=torch.float64))
    deviation = (squares / num_rows).sqrt().to(rows)
    # A feature that never varies says nothing: it becomes 0.
    scale = torch.where(deviation > 1e-8, 1 / deviation.clamp_min(1e-8), 0.0)
    return mean, scale, num_rows


def _accuracy(predicted: torch.Tensor, labels: torch.Tensor, env: DistEnv) -> float:
    correct = torch.tensor([float((predicted == labels).sum()), float(len(labels))])
    return _divide(env.sum_tensor(correct))


def _divide(counts: torch.Tensor) -> float:
    """Return correct / total of (2,) counts."""
    return float(counts[0] / counts[1].clamp_min(1))
