"""Pretext and train."""

from __future__ import annotations

from typing import Final

from clusterfit.config.forecast.figures import Figure, StageForecast
from clusterfit.config.forecast.stage import (
    Prospect,
    explain_schedule,
    forecast_checkpoints,
    forecast_logs,
)
from clusterfit.config.networks import read_networks
from clusterfit.config.sections.training import Recipe
from clusterfit.config.stages import StageName

_NUM_ROTATIONS: Final = 4


def forecast_pretext(prospect: Prospect) -> StageForecast:
    """Return what pretext will do and need."""
    return _forecast_training(prospect, prospect.run.pretext, _NUM_ROTATIONS)


def forecast_train(prospect: Prospect) -> StageForecast:
    """Return what train will do and need, if all images can be read."""
    run, known = prospect.run, prospect.known
    if run.inputs.assignments:
        return _forecast_training(prospect, run.train, known.num_clusters, known.num_assigned)
    return _forecast_training(prospect, run.train, run.cluster.num_clusters)


def _forecast_training(
    prospect: Prospect, recipe: Recipe, num_outputs: int, num_images: int = 0
) -> StageForecast:
    return StageForecast(
        prospect.stage,
        prospect.pods,
        work=tuple(explain_schedule(recipe, prospect, num_images)),
        storage=(
            *_forecast_weights(prospect.stage, recipe, num_outputs),
            forecast_logs(prospect, [recipe]),
        ),
    )


def _forecast_weights(stage: StageName, recipe: Recipe, num_outputs: int) -> tuple[Figure, Figure]:
    """Return what the weights and their checkpoints take; 0 outputs: their number is not known."""
    weights, checkpoints = f"{stage}/model.safetensors", f"{stage}/checkpoints"
    if not num_outputs:
        because = "follows from the clusters in inputs.assignments: --num-clusters K"
        return Figure(weights, None, because), Figure(checkpoints, None, because)
    network = read_networks()[recipe.model]
    num_parameters = network.count_parameters(num_outputs)
    because = f"{num_parameters} parameters of {recipe.model} with {num_outputs} outputs"
    return (
        Figure(weights, network.weights_bytes(num_outputs), because),
        forecast_checkpoints(checkpoints, recipe, num_parameters, network.buffer_bytes),
    )
