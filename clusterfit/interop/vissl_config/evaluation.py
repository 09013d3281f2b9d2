"""VISSL's linear evaluation -> our evaluate stage."""

from __future__ import annotations

from typing import Any, Final

from clusterfit.interop.vissl_config.layers import list_pooled_layers, name_layer
from clusterfit.interop.vissl_config.reading import Reading

_PROTOCOL: Final = (
    "left out: evaluate fits a linear classifier on features of a layer, average-pooled, to "
    "its optimum; there is no schedule, and no augmentation"
)


def read_probes(reading: Reading, model: str, weights: str) -> None:
    """Set one row of the evaluation for each layer that VISSL puts a linear head on."""
    key = "MODEL.FEATURE_EVAL_SETTINGS.LINEAR_EVAL_FEAT_POOL_OPS_MAP"
    layers = [layer for layer, _ in list_pooled_layers(reading)] or ["res5avg"]
    rows: list[dict[str, Any]] = []
    for layer in layers:
        row = {"label": layer, "from": "path" if weights else "random", "model": model}
        if weights:
            row["path"] = weights
        rows.append({**row, "layer": name_layer(reading, layer)})
    reading.set("evaluate.backbones", rows, key)
    reading.judge(
        key, "evaluate.backbones",
        "each layer is average-pooled to one vector, where VISSL keeps a grid of about 9,000 "
        "numbers",
    )  # fmt: skip
    for name in (
        "OPTIMIZER.num_epochs", "OPTIMIZER.weight_decay", "OPTIMIZER.nesterov",
        "OPTIMIZER.param_schedulers.lr.name", "DATA.TRAIN.BATCHSIZE_PER_REPLICA",
    ):  # fmt: skip
        reading.judge(name, change=_PROTOCOL)
