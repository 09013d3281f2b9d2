"""VISSL's trunks -> torchvision's networks.

Source: vissl/models/trunks and, for RegNets, classy_vision/models/regnet.py.
"""

from __future__ import annotations

from typing import Any, Final

from clusterfit.config.showing import show_value
from clusterfit.errors import ConfigError
from clusterfit.interop.vissl_config.reading import Reading

_TRUNK: Final = "MODEL.TRUNK"

_RESNETS: Final[dict[tuple[Any, ...], str]] = {
    # DEPTH, WIDTH_MULTIPLIER, GROUPS, WIDTH_PER_GROUP
    (18, 1, 1, 64): "resnet18",
    (34, 1, 1, 64): "resnet34",
    (50, 1, 1, 64): "resnet50",
    (101, 1, 1, 64): "resnet101",
    (152, 1, 1, 64): "resnet152",
    (50, 1, 32, 4): "resnext50_32x4d",
    (101, 1, 32, 8): "resnext101_32x8d",
    (101, 1, 64, 4): "resnext101_64x4d",
    (50, 1, 1, 128): "wide_resnet50_2",
    (101, 1, 1, 128): "wide_resnet101_2",
}
_REGNETS: Final[dict[tuple[Any, ...], str]] = {
    (f"regnet_{kind}_{size}",): f"regnet_{kind}_{size.replace('.', '_')}"
    for kind in "xy"
    for size in ("400mf", "800mf", "1.6gf", "3.2gf", "8gf", "16gf", "32gf")
} | {("regnet_y_128gf",): "regnet_y_128gf"}
_EFFICIENT_NETS: Final[dict[tuple[Any, ...], str]] = {
    (f"B{number}",): f"efficientnet_b{number}" for number in range(8)
}
_CONVNEXTS: Final[dict[tuple[Any, ...], str]] = {
    ((3, 3, 9, 3), (96, 192, 384, 768)): "convnext_tiny",
    ((3, 3, 27, 3), (96, 192, 384, 768)): "convnext_small",
    ((3, 3, 27, 3), (128, 256, 512, 1024)): "convnext_base",
    ((3, 3, 27, 3), (192, 384, 768, 1536)): "convnext_large",
}
_SWINS: Final[dict[tuple[Any, ...], str]] = {
    (96, (2, 2, 6, 2)): "swin_t",
    (96, (2, 2, 18, 2)): "swin_s",
    (128, (2, 2, 18, 2)): "swin_b",
}
_VISION_TRANSFORMERS: Final[dict[tuple[Any, ...], str]] = {
    # PATCH_SIZE, NUM_LAYERS, NUM_HEADS, HIDDEN_DIM, MLP_DIM
    (16, 12, 12, 768, 3072): "vit_b_16",
    (32, 12, 12, 768, 3072): "vit_b_32",
    (16, 24, 16, 1024, 4096): "vit_l_16",
    (32, 24, 16, 1024, 4096): "vit_l_32",
    (14, 32, 16, 1280, 5120): "vit_h_14",
}
_MOBILE_NETS: Final[dict[tuple[Any, ...], str]] = {("mobilenetv3_large_100",): "mobilenet_v3_large"}

_FAMILIES: Final[dict[str, tuple[str, tuple[str, ...], dict[tuple[Any, ...], str]]]] = {
    "resnet": ("RESNETS", ("DEPTH", "WIDTH_MULTIPLIER", "GROUPS", "WIDTH_PER_GROUP"), _RESNETS),
    "regnet": ("REGNET", ("name",), _REGNETS),
    "regnet_fsdp": ("REGNET", ("name",), _REGNETS),
    "efficientnet": ("EFFICIENT_NETS", ("model_version",), _EFFICIENT_NETS),
    "convnext": ("CONVNEXT", ("DEPTH", "DIMS"), _CONVNEXTS),
    "swin_transformer": ("SWIN_TRANSFORMER", ("EMBED_DIM", "DEPTHS"), _SWINS),
    "vision_transformer": (
        "VISION_TRANSFORMERS",
        ("PATCH_SIZE", "NUM_LAYERS", "NUM_HEADS", "HIDDEN_DIM", "MLP_DIM"),
        _VISION_TRANSFORMERS,
    ),
    "mobilenetv3_tv": ("MOBILE_NET", ("NAME",), _MOBILE_NETS),
}
"""By the trunk's name: where its settings are, which of them make the network, and which it is."""

_ALSO: Final[dict[str, dict[str, tuple[Any, str]]]] = {
    "resnet": {
        "RESNETS.NORM": ("BatchNorm", ""),
        "RESNETS.STANDARDIZE_CONVOLUTIONS": (False, ""),
        "RESNETS.LAYER4_STRIDE": (2, ""),
        "RESNETS.ZERO_INIT_RESIDUAL": (
            False, "left out: the last batch norm of a block starts at one, as torchvision's does"
        ),
    },
    "convnext": {
        "CONVNEXT.DROP_PATH_RATE": (None, "torchvision's own rate of stochastic depth is used")
    },
    "vision_transformer": {
        "VISION_TRANSFORMERS.QKV_BIAS": (
            True, "torchvision's attention has biases, which start at zero"
        ),
        "VISION_TRANSFORMERS.DROPOUT_RATE": (0, "left out: there is no dropout"),
        "VISION_TRANSFORMERS.ATTENTION_DROPOUT_RATE": (0, "left out: there is no dropout"),
        "VISION_TRANSFORMERS.DROP_PATH_RATE": (0, "left out: there is no stochastic depth"),
        "VISION_TRANSFORMERS.QK_SCALE": (False, ""),
        "VISION_TRANSFORMERS.CLASSIFIER": ("token", ""),
    },
}  # fmt: skip
"""Settings beside: the value that torchvision's network has, and why another one is a change;
without a reason another value is another network, and is refused."""

_CHANGES: Final = {
    "efficientnet": "VISSL's pads as TensorFlow does, torchvision's evenly: trained anew it is as "
    "good, but VISSL's EfficientNet weights cannot be loaded"
}


def read_model(reading: Reading, ours: str) -> None:
    """Set a model's name where `ours` says, as `find_model` finds it."""
    reading.set(ours, find_model(reading, ours), f"{_TRUNK}.NAME")


def find_model(reading: Reading, ours: str) -> str:
    """Return torchvision's name of the trunk, which `ours` takes.

    Raises:
        ConfigError: torchvision has no such network; names what is possible.
    """
    trunk = reading.text(f"{_TRUNK}.NAME")
    family = _FAMILIES.get(trunk)
    if family is None:
        raise reading.fault(
            f"{_TRUNK}.NAME",
            f"a trunk that torchvision has too: {', '.join(name for name in _FAMILIES)}",
        )
    section, keys, models = family
    names = [f"{_TRUNK}.{section}.{key}" for key in keys]
    model = models.get(tuple(_freeze(reading.get(name)) for name in names))
    if model is None:
        said = ", ".join(
            f"{key} {show_value(reading.get(name))}" for key, name in zip(keys, names, strict=True)
        )
        raise ConfigError(
            f"config.{_TRUNK}.{section}: got {said}, want one that torchvision has: "
            f"{', '.join(_describe(keys, values) for values in models)}"
        )
    change = _CHANGES.get(trunk, "")
    reading.judge(f"{_TRUNK}.NAME", f"{ours}: {model}", change)
    for name in names:
        reading.judge(name, f"{ours}: {model}")
    for key, (same, reason) in _ALSO.get(trunk, {}).items():
        name = f"{_TRUNK}.{key}"
        if reading.get(name) == same:
            if reading.is_given(name):
                reading.judge(name, f"{ours}: {model}")
        elif reason:
            reading.judge(name, f"{ours}: {model}", reason)
        else:
            raise reading.fault(name, f"{show_value(same)}, because {model} has no other")
    if reading.text("MODEL.INPUT_TYPE") != "rgb":
        raise reading.fault("MODEL.INPUT_TYPE", "rgb")
    if reading.is_given("MODEL.INPUT_TYPE"):
        reading.judge("MODEL.INPUT_TYPE", "images are RGB")
    return model


def _freeze(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _describe(keys: tuple[str, ...], values: tuple[Any, ...]) -> str:
    """Return `50`, `B0`, or, where the rest is not the usual, `50 (GROUPS 32, ...)`."""
    if len(keys) == 1 or keys[0] != "DEPTH" or isinstance(values[0], tuple):
        return " x ".join(str(list(v) if isinstance(v, tuple) else v) for v in values)
    usual = (1, 1, 64)
    if values[1:] == usual:
        return str(values[0])
    rest = (
        f"{key} {value}"
        for key, value, plain in zip(keys[1:], values[1:], usual, strict=True)
        if value != plain
    )
    return f"{values[0]} ({', '.join(rest)})"
