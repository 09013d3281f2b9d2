"""Frozen networks over images: what extract and evaluate share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from clusterfit.config.sections.extraction import CenterView
from clusterfit.config.sections.inputs import Weights
from clusterfit.errors import InvalidDataError
from clusterfit.interop.weights import load_backbone_weights
from clusterfit.worker.context import Context
from clusterfit.worker.data.images import Batch, ImageSet, Key, build_loader
from clusterfit.worker.data.views import (
    Normalizer,
    View,
    build_center_view,
    choose_memory_format,
)
from clusterfit.worker.networks.backbone import Extractor, Pooling, build_model

_ANY_NUM_CLASSES = 2
"""A head nobody asks: backbones are loaded without theirs."""


class FrozenNetwork:
    """What turns an image into a row of features, applied to any images in any order."""

    def __init__(
        self, context: Context, recipe: CenterView, extractor: nn.Module, view: View, path: str
    ) -> None:
        """Move the extractor to the device.

        Args:
            context: the stage's.
            recipe: its batches and memory order.
            extractor: (n, 3, s, s) normalised images -> (n, D) float32.
            view: how images are brought to its size; nothing random.
            path: what the run file calls it, for errors.
        """
        self._context = context
        self._recipe = recipe
        self._view = view
        self._where = path
        data, device = context.config.data, context.env.device
        memory_format = choose_memory_format(recipe.channels_last)
        self._extractor = extractor.to(device).to(memory_format=memory_format)
        self._normalize = Normalizer(data.mean, data.std, device, memory_format)

    def extract(
        self, paths: Sequence[str], runs: Iterable[Sequence[int]]
    ) -> Iterator[tuple[Batch, torch.Tensor]]:
        """Yield (batch, (n, D) float32 features on the device) over runs of images, in order.

        Args:
            paths: of all images.
            runs: sample indices. No batch is of two runs, and a run is asked for while the one
                before it is loaded.

        Raises:
            InvalidDataError: when a feature is not a finite number.
        """
        images = ImageSet(
            self._context.assignment.data_root,
            paths,
            self._view,
            seed=0,  # nothing is random
            substitute=False,
        )
        size = self._recipe.batch_size_per_rank
        batches: Iterator[list[Key]] = (
            [(0, index) for index in run[start : start + size]]
            for run in runs
            for start in range(0, len(run), size)
        )
        loaders = self._context.config.data.loaders_per_rank
        for batch in build_loader(images, batches, loaders, self._context.env.device):
            if not len(batch.images):
                yield batch, torch.empty(0, 0)
                continue
            features = self._extractor(self._normalize(batch.images))
            if not bool(torch.isfinite(features).all()):
                raise InvalidDataError(
                    f"{self._where}: features are not finite numbers; look for NaN in the weights, "
                    "or set precision: fp32"
                )
            yield batch, features


class FrozenBackbone(FrozenNetwork):
    """One layer of a network, on the center view."""

    def __init__(
        self,
        context: Context,
        recipe: CenterView,
        model: nn.Module,
        layer: str,
        pooling: Pooling,
        path: str,
    ) -> None:
        """Cut the network after a layer.

        Args:
            context: the stage's.
            recipe: how images are brought to the network, and its arithmetic.
            model: with its weights loaded.
            layer: where to cut.
            pooling: over spatial or token axes.
            path: what the run file calls the layer, for errors.
        """
        extractor = Extractor(model, layer, pooling, recipe.precision, recipe.fold_batch_norm, path)
        super().__init__(context, recipe, extractor, build_center_view(recipe), path)


def load_model(
    name: str, weights_file: Path | None, weights: Weights, context: Context, recipe: CenterView,
    path: str, is_told: bool = True,
) -> nn.Module:  # fmt: skip
    """Return a network by name with the weights of a file, or of the seed where there is none.

    Unless `is_told`, nothing is logged of the file.

    Raises:
        ConfigError: when there is no such model.
        MissingInputError, InvalidDataError: when the file is not there or does not fit.
    """
    model = build_model(name, _ANY_NUM_CLASSES, context.config.seed, recipe.crop_pixels, path)
    if weights_file is not None:
        report = load_backbone_weights(model, weights_file, weights)
        if is_told and context.env.is_main_rank:
            context.log.info("loaded weights", file=weights_file, report=report.summary)
            for note in report.notes:
                context.log.warning(note, file=weights_file)
    return model
