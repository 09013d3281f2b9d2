"""The protocol `heads`: linear classifiers on several frozen layers, trained together by SGD.

The network runs once for each image and all heads learn from it, in the same loop that trains
networks: with checkpoints, exact resume and metrics.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from clusterfit.artifacts.manifest import Identity, is_finished, read_manifest
from clusterfit.worker.context import Context
from clusterfit.worker.data.images import Batch, ImageSet
from clusterfit.worker.data.views import (
    Normalizer,
    build_center_view,
    build_heads_view,
    choose_memory_format,
)
from clusterfit.worker.probes.heads import Heads, count_hits
from clusterfit.worker.probes.images import LabelledImages
from clusterfit.worker.probes.layers import PooledTrunk
from clusterfit.worker.training.held_out import sum_over_images
from clusterfit.worker.training.loop import Training, fit

_BEST = {"top1": 1, "top5": 5}
"""Measure -> how many guesses count."""

Accuracies = dict[str, dict[str, float]]
"""Layer -> measure -> fraction of the val images."""


def judge_heads(
    context: Context,
    model: nn.Module,
    folder: Path,
    identity: Identity,
    train: LabelledImages,
    val: LabelledImages,
    num_classes: int,
) -> Accuracies:
    """Train the heads, unless that is done already, and return how well each layer's does."""
    env, config = context.env, context.config.evaluate
    if not env.broadcast_object(env.is_main_rank and is_finished(folder, identity)):
        _train(context, model, folder, identity, train, val, num_classes)
    found = env.broadcast_object(read_manifest(folder).results if env.is_main_rank else None)
    val.leave_out({int(index): why for index, why in found.get("unreadable", {}).items()})
    final = found["final"]
    return {
        layer.layer: {measure: final[f"{layer.layer}.{measure}"] for measure in _BEST}
        for layer in config.layers
    }


def _train(
    context: Context,
    model: nn.Module,
    folder: Path,
    identity: Identity,
    train: LabelledImages,
    val: LabelledImages,
    num_classes: int,
) -> None:
    config, env, data = context.config.evaluate, context.env, context.config.data
    memory_format = choose_memory_format(config.channels_last)
    normalize = Normalizer(data.mean, data.std, env.device, memory_format)
    trunk = PooledTrunk(model, config)
    heads = Heads(trunk.shapes, num_classes, context.config.seed)
    trunk = trunk.to(env.device).to(memory_format=memory_format)
    labels = torch.from_numpy(train.labels)

    def prepare(batch: Batch) -> tuple[list[torch.Tensor], torch.Tensor]:
        targets = labels[batch.sample_indices].to(env.device, non_blocking=True)
        return trunk(normalize(batch.images)), targets

    fit(
        context,
        Training(
            recipe=config.heads,
            precision="fp32",
            channels_last=False,
            crop_pixels=config.crop_pixels,
            folder=folder,
            identity=identity,
            facts={
                "num_classes": num_classes,
                "shapes": {
                    layer.layer: list(shape)
                    for layer, shape in zip(config.layers, trunk.shapes, strict=True)
                },
                "unreadable": val.unreadable,  # which grows until the manifest is written
            },
            model=heads,
            images=ImageSet(
                context.assignment.data_root,
                train.paths,
                build_heads_view(config.heads, config.crop_pixels),
                context.config.seed,
                substitute=True,
            ),
            sample_indices=torch.arange(len(train.paths)),
            prepare=prepare,
            evaluate=_HeldOut(context, trunk, normalize, val).evaluate,
        ),
    )


class _HeldOut:
    """How often each head is right on the val partition."""

    def __init__(
        self, context: Context, trunk: PooledTrunk, normalize: Normalizer, val: LabelledImages
    ) -> None:
        self._context = context
        self._trunk = trunk
        self._normalize = normalize
        self._val = val

    def evaluate(self, heads: nn.Module) -> dict[str, float]:
        """Return the accuracy of each layer and measure over all ranks."""
        context, config = self._context, self._context.config.evaluate
        labels = torch.from_numpy(self._val.labels)
        names = [f"{layer.layer}.{measure}" for measure in _BEST for layer in config.layers]
        images = ImageSet(
            context.assignment.data_root,
            self._val.paths,
            build_center_view(config),
            seed=0,  # nothing is random
            substitute=False,
        )
        for buffer in heads.buffers():  # ranks on unlike processors may differ by a bit
            dist.broadcast(buffer, src=0)
        heads.eval()

        def count(batch: Batch) -> torch.Tensor:
            """Return hits by measure and layer, then the number of images."""
            logits = heads(self._trunk(self._normalize(batch.images))).cpu()
            targets = labels[batch.sample_indices]
            hits = [count_hits(logits, targets, best) for best in _BEST.values()]
            return torch.cat([*hits, torch.tensor([len(targets)])])

        (*hits, num_images), unreadable = sum_over_images(
            context,
            images,
            torch.arange(len(self._val.paths)),
            config.batch_size_per_rank,
            len(names) + 1,
            count,
        )
        self._val.leave_out(unreadable)
        return {name: hit / max(num_images, 1) for name, hit in zip(names, hits, strict=True)}
