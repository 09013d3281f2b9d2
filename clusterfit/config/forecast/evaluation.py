"""Evaluate."""

from __future__ import annotations

import math

from clusterfit.config.forecast.figures import Figure, StageForecast
from clusterfit.config.forecast.stage import (
    Prospect,
    explain_schedule,
    forecast_checkpoints,
    forecast_logs,
)
from clusterfit.config.networks import FLOAT_BYTES, read_networks
from clusterfit.config.sections.evaluation import EvaluatedBackbone, PooledLayer
from clusterfit.config.tree import RunFile


def forecast_evaluate(prospect: Prospect) -> StageForecast:
    """Return what evaluate will do and need."""
    config = prospect.run.evaluate
    work = [Figure("backbones", len(config.backbones), f"by {', '.join(config.protocols)}")]
    storage = []
    recipes = [config.heads for _ in config.backbones] if "heads" in config.protocols else []
    if recipes:
        work += explain_schedule(config.heads, prospect)
        storage += [
            _forecast_heads(prospect, number, backbone)
            for number, backbone in enumerate(config.backbones)
        ]
    return StageForecast(
        prospect.stage,
        prospect.pods,
        work=tuple(work),
        storage=(*storage, forecast_logs(prospect, recipes)),
    )


def _forecast_heads(prospect: Prospect, number: int, backbone: EvaluatedBackbone) -> Figure:
    path, config = f"evaluate/heads/{number}", prospect.run.evaluate
    num_classes = prospect.known.num_classes
    widths = [_find_pooled_width(prospect.run, backbone, layer) for layer in config.layers]
    if not num_classes:
        return Figure(path, None, "follows from the number of classes: --num-classes N")
    if None in widths:
        unknown = config.layers[widths.index(None)].layer
        return Figure(path, None, f"the width of {unknown} is not on record")
    num_parameters = sum((width or 0) + 1 for width in widths) * num_classes
    checkpoints = forecast_checkpoints(path, config.heads, num_parameters, 0)
    assert isinstance(checkpoints.value, int), "its parameters are known"
    return Figure(
        path,
        checkpoints.value + num_parameters * FLOAT_BYTES,
        f"{num_parameters} parameters for {num_classes} classes, and checkpoints",
    )


def _find_pooled_width(
    run: RunFile, backbone: EvaluatedBackbone, pooled: PooledLayer
) -> int | None:
    """Return how many numbers a head sees, or None where the layer is not on record."""
    if backbone.source == "run" and backbone.run:
        return None  # another run's network
    name = backbone.model or {"pretext": run.pretext, "train": run.train}[backbone.stage].model
    network, crop_pixels = read_networks()[name], run.evaluate.crop_pixels
    width = network.find_width(pooled.layer, crop_pixels, is_pooled=False)
    channels = network.find_width(pooled.layer, crop_pixels, is_pooled=True)
    if not pooled.kernel or width is None or channels is None:
        return width
    return channels * pooled.count_windows(math.isqrt(width // channels)) ** 2
