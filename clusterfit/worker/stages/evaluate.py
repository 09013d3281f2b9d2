"""Evaluate: linear probes and nearest neighbours for several frozen backbones, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from clusterfit.artifacts.dataset import Samples, read_samples
from clusterfit.artifacts.files import write_json
from clusterfit.artifacts.layout import TRAIN, VAL
from clusterfit.artifacts.manifest import write_manifest
from clusterfit.config.tree import EvaluatedBackbone, Weights
from clusterfit.errors import InvalidDataError
from clusterfit.worker.context import Context
from clusterfit.worker.identity import list_targets, require_backbone
from clusterfit.worker.log import ProgressReporter
from clusterfit.worker.networks.inference import FrozenBackbone, load_model
from clusterfit.worker.probes.probe import LabelledFeatures, probe_linear, vote_neighbors
from clusterfit.worker.randomness import permute
from clusterfit.worker.versions import read_versions


def run(context: Context) -> None:
    """Judge each backbone on the train and val images, and write results.json."""
    config, env, log = context.config, context.env, context.log
    [(folder, identity)] = list_targets(context.assignment, env.world_size)
    train = read_samples(context.run.data(TRAIN))
    val = read_samples(context.run.data(VAL))
    num_classes = _count_classes(train, val)
    num_images = (len(train.paths) + len(val.paths)) * len(config.evaluate.backbones)
    progress = ProgressReporter(log, num_images, "images") if env.is_main_rank else None
    rows = []
    for number, backbone in enumerate(config.evaluate.backbones):
        frozen, model = _load(context, backbone, f"evaluate.backbones.{number}")
        features = {
            partition: _extract(context, frozen, samples, progress)
            for partition, samples in ((TRAIN, train), (VAL, val))
        }
        accuracies = _judge(context, features[TRAIN], features[VAL], train, num_classes)
        row = {
            "label": backbone.label,
            "model": model,
            "layer": backbone.layer,
            "feature_dim": features[TRAIN].features.shape[1],
            **accuracies,
        }
        rows.append(row)
        if env.is_main_rank:
            log.info("result", **{key: _flatten(value) for key, value in row.items()})
    if env.is_main_rank:
        results = {
            "num_train": len(train.paths),
            "num_val": len(val.paths),
            "num_classes": num_classes,
            "backbones": rows,
        }
        write_json(context.run.results(), results, context.guard)
        write_manifest(
            folder, identity, [context.run.results().name], results, read_versions(), context.guard
        )
        log.info("finished", folder=folder, num_backbones=len(rows), num_val=len(val.paths))
    env.barrier()


def _count_classes(train: Samples, val: Samples) -> int:
    if train.labels is None or val.labels is None:
        raise InvalidDataError(
            "evaluate needs labels for train and val: put the images into one folder per class, or "
            "give data.trainLabels and data.valLabels with format: filelist"
        )
    return int(max(train.labels.max(), val.labels.max())) + 1


def _load(context: Context, backbone: EvaluatedBackbone, path: str) -> tuple[FrozenBackbone, str]:
    """Return the backbone, frozen, and its model's name."""
    recipe = context.config.evaluate
    weights_file: Path | None = None
    name = backbone.model
    if backbone.source == "run":
        name = str(require_backbone(context.assignment, backbone).results["model"])
        run = context.run.sibling(backbone.run) if backbone.run else context.run
        weights_file = run.backbone(backbone.stage)
    elif backbone.source == "path":
        weights_file = context.run.storage_root / backbone.path
    weights = Weights(source="path", path="model")  # any file: only how its keys are read counts
    model = load_model(name, weights_file, weights, context, recipe, f"{path}.model")
    frozen = FrozenBackbone(context, recipe, model, backbone.layer, "avg", f"{path}.layer")
    return frozen, name


def _extract(
    context: Context, frozen: FrozenBackbone, samples: Samples, progress: ProgressReporter | None
) -> LabelledFeatures:
    """Return this rank's share of a partition's features; unreadable images are left out."""
    env = context.env
    num_samples = len(samples.paths)
    share = range(
        num_samples * env.rank // env.world_size, num_samples * (env.rank + 1) // env.world_size
    )
    assert samples.labels is not None, "checked before"
    chunks, indices = [], []
    for batch, features in frozen.extract(samples.paths, share):
        env.stop.check()
        if progress is not None:  # this rank's pace is everybody's, more or less
            progress.step(len(batch.images) * env.world_size)
        if len(features):
            chunks.append(features)
            indices.append(batch.sample_indices)
    # A share may be empty: its rank still knows how wide the others' rows are.
    feature_dim = env.find_maximum(chunks[0].shape[1] if chunks else 0)
    if not feature_dim:
        raise InvalidDataError(f"evaluate: none of {num_samples} images can be read")
    chunks.append(torch.empty(0, feature_dim, device=env.device))
    sample_indices = torch.cat([*indices, torch.empty(0, dtype=torch.int64)])
    labels = torch.from_numpy(samples.labels)[sample_indices].to(env.device)
    return LabelledFeatures(torch.cat(chunks).clone(), labels, sample_indices)


def _judge(
    context: Context,
    train: LabelledFeatures,
    val: LabelledFeatures,
    samples: Samples,
    num_classes: int,
) -> dict[str, Any]:
    """Return accuracies: `linear` by number of labels (`all`, or n per class), and `knn`."""
    recipe, env = context.config.evaluate, context.env
    linear = {"all": probe_linear(train, val, num_classes, recipe.l2_penalty, env)}
    for labels_per_class in recipe.labels_per_class:
        chosen = _choose_labelled(samples, labels_per_class, context.config.seed)
        is_chosen = torch.isin(train.sample_indices, chosen).to(env.device)
        few = LabelledFeatures(
            train.features[is_chosen],
            train.labels[is_chosen],
            train.sample_indices[is_chosen.cpu()],
        )
        linear[str(labels_per_class)] = probe_linear(few, val, num_classes, recipe.l2_penalty, env)
    knn = vote_neighbors(train, val, num_classes, recipe.neighbors, recipe.temperature, env)
    return {"linear": linear, "knn": knn}


def _choose_labelled(samples: Samples, labels_per_class: int, seed: int) -> torch.Tensor:
    """Return the sample indices of n images of each class, drawn by the seed."""
    assert samples.labels is not None, "checked before"
    labels = torch.from_numpy(samples.labels)
    order = permute(len(labels), "labelled", seed)
    chosen = [order[labels[order] == label][:labels_per_class] for label in labels.unique()]
    return torch.cat(chosen)


def _flatten(value: Any) -> Any:
    if isinstance(value, dict):
        return " ".join(f"{key}:{number:.4f}" for key, number in value.items())
    return float(f"{value:.4f}") if isinstance(value, float) else value
