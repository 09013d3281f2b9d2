"""Pretext: pre-train a backbone by predicting rotations (RotNet, arXiv:1803.07728)."""

from __future__ import annotations

import torch
from torch import nn

from clusterfit.artifacts.dataset import read_samples
from clusterfit.artifacts.layout import TRAIN
from clusterfit.config.tree import Algorithm
from clusterfit.worker.context import Context
from clusterfit.worker.data.images import Batch, ImageSet
from clusterfit.worker.data.views import (
    Normalizer,
    build_pretext_view,
    choose_memory_format,
    rotate_fourfold,
)
from clusterfit.worker.identity import list_targets
from clusterfit.worker.networks.backbone import build_model, resolve_layers
from clusterfit.worker.training.loop import Training, fit

NUM_ROTATIONS = 4


def run(context: Context) -> None:
    """Train on every image of the train partition, each turned four ways."""
    config, env = context.config, context.env
    recipe = config.pretext
    if env.is_main_rank and "extract" in config.stages:
        _check_layer(config)
    samples = read_samples(context.run.data(TRAIN))
    [(folder, identity)] = list_targets(context.assignment, env.world_size)
    memory_format = choose_memory_format(recipe.channels_last)
    normalize = Normalizer(config.data.mean, config.data.std, env.device, memory_format)

    def prepare(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        images, targets = rotate_fourfold(normalize(batch.images))
        return images.contiguous(memory_format=memory_format), targets

    def evaluate(network: nn.Module) -> dict[str, float]:
        del network  # the loss on the pretext task is all there is to say of it
        return {}

    fit(
        context,
        Training(
            recipe=recipe,
            precision=recipe.precision,
            channels_last=recipe.channels_last,
            crop_pixels=recipe.crop_pixels,
            folder=folder,
            identity=identity,
            facts={"model": recipe.model, "num_classes": NUM_ROTATIONS},
            model=build_model(
                recipe.model, NUM_ROTATIONS, config.seed, recipe.crop_pixels, "pretext.model"
            ),
            images=ImageSet(
                context.assignment.data_root,
                samples.paths,
                build_pretext_view(recipe),
                config.seed,
                substitute=True,
            ),
            sample_indices=torch.arange(len(samples.paths)),
            prepare=prepare,
            evaluate=evaluate,
        ),
    )


def _check_layer(config: Algorithm) -> None:
    """Refuse now what extract would refuse after all of this training.

    Raises:
        ConfigError: when the network has no such layer.
    """
    recipe, model = config.extract, config.extract.model
    network = build_model(model, NUM_ROTATIONS, config.seed, recipe.crop_pixels, "extract.model")
    resolve_layers(network, [recipe.layer], "extract.layer")
