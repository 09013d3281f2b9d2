"""All stages of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from clusterfit.config.forecast.evaluation import forecast_evaluate
from clusterfit.config.forecast.features import forecast_cluster, forecast_extract
from clusterfit.config.forecast.figures import (
    Counts,
    Known,
    StageForecast,
    describe_pods,
)
from clusterfit.config.forecast.stage import Prospect
from clusterfit.config.forecast.training import forecast_pretext, forecast_train
from clusterfit.config.stages import StageName
from clusterfit.config.tree import RunFile

_FORECASTS: Final[dict[StageName, Callable[[Prospect], StageForecast]]] = {
    "pretext": forecast_pretext,
    "extract": forecast_extract,
    "cluster": forecast_cluster,
    "train": forecast_train,
    "evaluate": forecast_evaluate,
}


def forecast_run(
    run: RunFile, counts: Counts, known: Known | None = None
) -> tuple[StageForecast, ...]:
    """Return what each stage of a run file will do and need.

    Args:
        run: as it would be submitted.
        counts: images of `train`, which must be known, and of `val`.
        known: of its inputs; None: nothing.

    Raises:
        ConfigError: a training's images do not fill its global batch.
    """
    return tuple(
        _FORECASTS[stage](
            Prospect(
                stage, run, counts, known or Known(), describe_pods(run.platform.for_stage(stage))
            )
        )
        for stage in run.stages
    )
