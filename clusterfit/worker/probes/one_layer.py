"""The protocols on one layer's features of the center view: linear and knn."""

from __future__ import annotations

import torch

from clusterfit.artifacts.dataset import Samples
from clusterfit.worker.context import Context
from clusterfit.worker.probes.features import LabelledFeatures
from clusterfit.worker.probes.logistic import probe_linear
from clusterfit.worker.probes.neighbors import vote_neighbors
from clusterfit.worker.randomness import permute


def judge_linear(
    context: Context,
    train: LabelledFeatures,
    val: LabelledFeatures,
    samples: Samples,
    num_classes: int,
) -> dict[str, float]:
    """Return accuracies by number of labels: `all`, or n per class."""
    recipe, env = context.config.evaluate, context.env
    accuracies = {"all": probe_linear(train, val, num_classes, recipe.l2_penalty, env)}
    for labels_per_class in recipe.labels_per_class:
        chosen = _choose_labelled(samples, labels_per_class, context.config.seed)
        is_chosen = torch.isin(train.sample_indices, chosen).to(env.device)
        few = LabelledFeatures(
            train.features[is_chosen],
            train.labels[is_chosen],
            train.sample_indices[is_chosen.cpu()],
        )
        accuracy = probe_linear(few, val, num_classes, recipe.l2_penalty, env)
        accuracies[str(labels_per_class)] = accuracy
    return accuracies


def judge_knn(
    context: Context, train: LabelledFeatures, val: LabelledFeatures, num_classes: int
) -> float:
    """Return the accuracy of the nearest images' vote."""
    recipe = context.config.evaluate
    return vote_neighbors(
        train, val, num_classes, recipe.neighbors, recipe.temperature, context.env
    )


def _choose_labelled(samples: Samples, labels_per_class: int, seed: int) -> torch.Tensor:
    """Return the sample indices of n images of each class, drawn by the seed."""
    assert samples.labels is not None, "checked before"
    labels = torch.from_numpy(samples.labels)
    order = permute(len(labels), "labelled", seed)
    chosen = [order[labels[order] == label][:labels_per_class] for label in labels.unique()]
    return torch.cat(chosen)
