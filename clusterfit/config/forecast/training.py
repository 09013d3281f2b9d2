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
from clusterfit.config.tree import Recipe

_NUM_ROTATIONS: Final = 4


def forecast_pretext(prospect: Prospect) -> StageForecast:
    """Return what pretext will do and need."""
    return _forecast_training(prospect, prospect.run.pretext, _NUM_ROTATIONS)


def forecast_train(prospect: Prospect) -> StageForecast:
    """Return what train will do and need, if all images can be read."""
    return _forecast_training(prospect, prospect.run.train, prospect.run.cluster.num_clusters)


def _forecast_training(prospect: Prospect, recipe: Recipe, num_outputs: int) -> StageForecast:
    network = read_networks()[recipe.model]
    num_parameters = network.count_parameters(num_outputs)
    weights = Figure(
        f"{prospect.stage}/model.safetensors",
        network.weights_bytes(num_outputs),
        f"{num_parameters} parameters of {recipe.model} with {num_outputs} outputs",
    )
    checkpoints = forecast_checkpoints(
        f"{prospect.stage}/checkpoints", recipe, num_parameters, network.buffer_bytes
    )
    return StageForecast(
        prospect.stage,
        prospect.pods,
        work=tuple(explain_schedule(recipe, prospect)),
        storage=(weights, checkpoints, forecast_logs(prospect, [recipe])),
    )
