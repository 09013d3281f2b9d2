"""What the forecasts of all stages have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from clusterfit.config.forecast.figures import Counts, Figure, Known, Pods
from clusterfit.config.networks import FLOAT_BYTES
from clusterfit.config.schedule import Schedule
from clusterfit.config.sections.training import Optimization
from clusterfit.config.stages import StageName
from clusterfit.config.tree import RunFile

_LOG_BYTES_PER_RANK: Final = 1_000
_LOG_BYTES_FIRST_MINUTE: Final = 12_000
"""Progress is told each second then, by rank 0."""
_LOG_BYTES_PER_HOUR: Final = 65_000
"""Six lines a minute."""
_LOG_BYTES_PER_EPOCH: Final = 300


@dataclass(frozen=True, slots=True)
class Prospect:
    """What a forecast of one stage is made from."""

    stage: StageName
    run: RunFile
    counts: Counts
    known: Known
    pods: Pods


def explain_schedule(
    recipe: Optimization, prospect: Prospect, num_images: int = 0
) -> Iterator[Figure]:
    """Yield what the worker logs of a training's schedule when it begins.

    `num_images` are those that it sees; 0: all of train.
    """
    num_images = num_images or prospect.counts["train"]
    schedule = Schedule.plan(recipe, num_images, prospect.pods.world_size)
    yield Figure("base_lr", recipe.base_lr, f"{recipe.section}.baseLr, for a batch of 256")
    for name, reason in schedule.reasons().items():
        yield Figure(name, getattr(schedule, name), reason)


def forecast_checkpoints(
    path: str, recipe: Optimization, num_parameters: int, buffer_bytes: int
) -> Figure:
    """Return what checkpoints take at most, at any one time."""
    one = 2 * FLOAT_BYTES * num_parameters + buffer_bytes
    return Figure(
        path,
        (recipe.keep_checkpoints + 1) * one,
        f"weights and momentum, {recipe.keep_checkpoints} kept and one being written",
    )


def forecast_logs(prospect: Prospect, recipes: Sequence[Optimization] = ()) -> Figure:
    """Return what the ranks' lines take."""
    num_epochs = sum(recipe.epochs for recipe in recipes)
    return Figure(
        f"logs/{prospect.stage}",
        _LOG_BYTES_PER_RANK * prospect.pods.world_size
        + _LOG_BYTES_FIRST_MINUTE
        + _LOG_BYTES_PER_EPOCH * num_epochs,
        f"of each rank; and about {_LOG_BYTES_PER_HOUR // 1000} kB an hour",
    )
