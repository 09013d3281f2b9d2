"""The protocol `svm`: a linear SVM for each class and layer, the classes shared over ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from clusterfit.worker.context import Context
from clusterfit.worker.data.views import build_center_view, build_squashed_view
from clusterfit.worker.limits import spread_labels
from clusterfit.worker.log import ProgressReporter
from clusterfit.worker.memory import find_available_bytes
from clusterfit.worker.networks.inference import FrozenNetwork
from clusterfit.worker.probes.features import LabelledFeatures, gather_rows
from clusterfit.worker.probes.images import LabelledImages
from clusterfit.worker.probes.layers import PooledFeatures, PooledTrunk
from clusterfit.worker.probes.shares import extract_share


def judge_svm(
    context: Context,
    model: nn.Module,
    train: LabelledImages,
    val: LabelledImages,
    progress: ProgressReporter | None,
    key: str,
) -> dict[str, dict[str, Any]]:
    """Return each layer's mean average precision, each class's own, and the costs chosen.

    No other call on these ranks has the same key.
    """
    config, env = context.config.evaluate, context.env
    trunk = PooledTrunk(model, config)
    features = PooledFeatures(trunk)
    view = build_squashed_view(config) if config.svm.squash else build_center_view(config)
    frozen = FrozenNetwork(context, config, features, view, "evaluate.layers")
    shares = [extract_share(context, frozen, images, progress) for images in (train, val)]
    results = {}
    start = 0
    for layer, width in zip(config.layers, features.widths, strict=True):
        rows, labels = zip(
            *(_gather(context, share, start, start + width) for share in shares), strict=True
        )
        results[layer.layer] = judge_layer(
            context, layer.layer, rows, labels, f"{key}/{layer.layer}"
        )
        start += width
        env.barrier()
    return results


def _gather(
    context: Context, share: LabelledFeatures, start: int, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return one layer's rows of all ranks, and their (N, C) labels."""
    own = LabelledFeatures(share.features[:, start:stop], share.labels, share.sample_indices)
    rows, labels = gather_rows(own, context.env)
    return rows.cpu().numpy(), spread_labels(labels.cpu().numpy())


def judge_layer(
    context: Context,
    layer: str,
    rows: tuple[np.ndarray, ...],
    labels: tuple[np.ndarray, ...],
    key: str,
) -> dict[str, Any]:
    """Return what `judge_svm` does of one layer.

    Args:
        context: the stage's.
        layer: its name, for the log.
        rows: (N, D) of train and of val.
        labels: (N, C) of both; C may differ.
        key: of this layer alone, by which ranks wait for each other.
    """
    # scikit-learn: only where it is used
    from clusterfit.worker.probes.svm import FIT_BYTES, judge_classes

    env, config = context.env, context.config.evaluate.svm
    num_classes = max(each.shape[1] for each in labels)
    train_labels, val_labels = (_widen(each, num_classes) for each in labels)
    own = list(range(env.rank, num_classes, env.world_size))
    judged = judge_classes(
        rows[0], train_labels, rows[1], val_labels, own, config, context.config.seed,
        _count_fits(env.threads_per_rank, rows, FIT_BYTES), env.stop.check,
    )  # fmt: skip
    # There may be fewer classes than ranks, and a class may take its rank long.
    env.wait_for_everyone(key, lambda: None)
    found = torch.zeros(num_classes, 3, dtype=torch.float64)
    for number, result in zip(own, judged, strict=True):
        values = (result.average_precision, result.cost, float(result.has_converged))
        found[number] = torch.tensor(values, dtype=torch.float64)
    precisions, costs, converged = env.sum_tensor(found).T.tolist()
    if env.is_main_rank and sum(converged) < num_classes:
        context.log.warning(
            "SVMs stopped before their optimum; more maxIterations may help",
            layer=layer,
            num_stopped=num_classes - int(sum(converged)),
            max_iterations=config.max_iterations,
        )
    known = [value for value in precisions if value == value]  # NaN: no val image shows the class
    return {
        "mean_average_precision": sum(known) / max(len(known), 1),
        "average_precisions": [value if value == value else None for value in precisions],
        "costs": costs,
    }


def _count_fits(num_threads: int, rows: tuple[np.ndarray, ...], fit_bytes: int) -> int:
    """Return how many threads may fit at once: as many as there are, and as memory has room for."""
    room, _ = find_available_bytes(torch.device("cpu"))
    room -= sum(8 * each.size for each in rows)  # in float64, for all fits
    return max(1, min(num_threads, room // (fit_bytes * max(1, rows[0].size))))


def _widen(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return (N, num_classes) labels: a class that only the other partition has is not shown."""
    return np.pad(labels, ((0, 0), (0, num_classes - labels.shape[1])))
