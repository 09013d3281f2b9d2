"""The protocols on one layer's features of the center view: linear and knn."""

from __future__ import annotations

import torch

from clusterfit.worker.context import Context
from clusterfit.worker.probes.features import LabelledFeatures
from clusterfit.worker.probes.images import LabelledImages
from clusterfit.worker.probes.logistic import probe_linear
from clusterfit.worker.probes.neighbors import vote_neighbors
from clusterfit.worker.randomness import permute


def judge_linear(
    context: Context,
    train: LabelledFeatures,
    val: LabelledFeatures,
    images: LabelledImages,
    num_classes: int,
) -> dict[str, float]:
    """Return accuracies by number of labels: `all`, or n per class."""
    recipe, env = context.config.evaluate, context.env
    accuracies = {"all": probe_linear(train, val, num_classes, recipe.l2_penalty, env)}
    for labels_per_class in recipe.labels_per_class:
        chosen = choose_labelled(images, labels_per_class, context.config.seed)
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


def choose_labelled(images: LabelledImages, labels_per_class: int, seed: int) -> torch.Tensor:
    """Return the sample indices of n readable images of each class, drawn by the seed.

    Where a class has fewer, all of them.
    """
    labels = torch.from_numpy(images.labels)
    order = permute(len(labels), "labelled", seed)
    order = order[~torch.isin(order, torch.tensor(list(images.unreadable), dtype=torch.int64))]
    by_label = labels[order].argsort(stable=True)
    _, counts = labels[order][by_label].unique_consecutive(return_counts=True)
    firsts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    is_chosen = torch.arange(len(order)) - firsts < labels_per_class
    return order[by_label[is_chosen]]
