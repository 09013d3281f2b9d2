"""Logistic regression on frozen features, shared over ranks.

n: rows of this rank, N: rows of all ranks, D: feature_dim, C: classes.
"""

from __future__ import annotations

from typing import Any, Final, cast

import torch
import torch.distributed as dist
from torch.nn import functional

from clusterfit.worker.distenv import DistEnv
from clusterfit.worker.probes.features import LabelledFeatures, compute_accuracy

_MAX_ITERATIONS: Final = 300
_GRADIENT_TOLERANCE: Final = 1e-5


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
        return compute_accuracy(logits.argmax(1), val.labels, env)


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
