"""VISSL's names of layers, and what it pools them with."""

from __future__ import annotations

from typing import Any, Final

from clusterfit.config.showing import show_value
from clusterfit.interop.vissl_config.reading import Reading

_SETTINGS: Final = "MODEL.FEATURE_EVAL_SETTINGS"
_MAP: Final = f"{_SETTINGS}.LINEAR_EVAL_FEAT_POOL_OPS_MAP"
_LAYER: Final = "CLUSTERFIT.FEATURES.LAYER_NAME"

_NAMES: Final[dict[str, dict[str, str]]] = {
    "regnet": {
        "conv1": "stem",
        **{f"res{number + 1}": f"trunk_output.block{number}" for number in range(1, 5)},
    },
    "efficientnet": {"conv1": "features.0", "conv_final": "features.8"},
    "convnext": {"lastCLS": "classifier.0"},
    "swin_transformer": {"lastCLS": "flatten"},
    "vision_transformer": {"lastCLS": "getitem_5"},
}
"""By the trunk's name: torchvision's names for layers that `extract.layer` does not know."""

_STRIDES: Final = {"conv1": 2, "res1": 4, "res2": 4, "res3": 8, "res4": 16, "res5": 32}
"""Pixels of the image between two neighbours of a ResNet's or RegNet's layer."""

_WHOLE: Final = frozenset({"res5avg", "avgpool", "flatten", "lastCLS"})
"""Layers with one vector an image."""


def read_layer(reading: Reading) -> None:
    """Set the layer that features are taken from, and its pooling.

    Raises:
        ConfigError: several layers are named and none is chosen, or features of heads are wanted.
    """
    pooled = list_pooled_layers(reading)
    layer = reading.text(_LAYER)
    if not layer and len(pooled) > 1:
        raise reading.fault(
            _MAP,
            f"one layer, because a run extracts one; choose with config.{_LAYER}={pooled[0][0]}",
        )
    key = _LAYER if layer else _MAP
    layer = layer or (pooled[0][0] if pooled else "res5avg")
    if layer == "heads":
        raise reading.fault(key, "a layer of the trunk: features of heads are not extracted")
    reading.carry(key, "extract.layer", name_layer(reading, layer))
    operation = dict(pooled).get(layer)
    pooling, change = _translate_pooling(reading, layer, operation)
    reading.set("extract.pooling", pooling, _MAP)
    if operation is not None or reading.is_given(_MAP):
        reading.judge(_MAP, f"extract.pooling: {pooling}", change)
    flattens = f"{_SETTINGS}.SHOULD_FLATTEN_FEATS"
    if reading.is_given(flattens):
        reading.judge(flattens, "features are always flattened to (N, D)")


def list_pooled_layers(reading: Reading) -> list[tuple[str, Any]]:
    """Return each layer that VISSL evaluates with its pooling, [name, arguments], or None."""
    pooled = []
    for item in reading.sequence(_MAP):
        if not isinstance(item, list) or len(item) != 2 or not isinstance(item[0], str):
            raise reading.fault(_MAP, 'pairs like ["res5", ["AvgPool2d", [[7, 7], 1, 0]]]')
        pooled.append((item[0], item[1]))
    if not pooled:
        names = reading.sequence("MODEL.EVAL_FEATURES")
        operations = reading.sequence("MODEL.LINEAR_FEAT_POOL_OPS")
        operations += [None] * (len(names) - len(operations))
        pooled = [(str(name), op) for name, op in zip(names, operations, strict=False)]
        if names:
            reading.judge("MODEL.EVAL_FEATURES", "extract.layer")
            reading.judge("MODEL.LINEAR_FEAT_POOL_OPS", "extract.pooling")
    return pooled


def name_layer(reading: Reading, layer: str) -> str:
    """Return a layer's name in torchvision's network."""
    trunk = reading.text("MODEL.TRUNK.NAME").removesuffix("_fsdp")
    return _NAMES.get(trunk, {}).get(layer, layer)


def _translate_pooling(reading: Reading, layer: str, operation: Any) -> tuple[str, str]:
    """Return our pooling, and how it differs."""
    if layer in _WHOLE:
        return "avg", ""
    name, arguments = operation if isinstance(operation, list) and operation else ("Identity", [])
    if name == "Identity":
        return "none", ""
    pooling = "max" if "Max" in name else "avg"
    window = arguments[0] if arguments else None
    side = max(window) if isinstance(window, list) and window else window
    crop = 224
    for item in reading.get_items("DATA.TRAIN.TRANSFORMS"):
        if isinstance(item, dict) and "Crop" in str(item.get("name")):
            crop = item.get("size", crop)
    covers = (
        side == 1
        if name.startswith("Adaptive")
        else isinstance(side, int) and side * _STRIDES.get(layer, crop) >= crop
    )
    if covers:
        return pooling, ""
    return pooling, (
        f"pooled over the whole layer, where {name} {show_value(arguments)} keeps a grid"
    )
