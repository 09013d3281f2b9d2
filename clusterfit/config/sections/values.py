"""Kinds of values that several sections of the run file take."""

from __future__ import annotations

from typing import Annotated, Final

from annotated_types import Ge, Gt, Le, Len
from pydantic import AfterValidator, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError

from clusterfit.config.names import RUN_NAME, RUN_NAME_LENGTH, RUN_NAME_WANTED
from clusterfit.config.networks import SMALL_RESNET, check_name, read_networks
from clusterfit.config.section import Wanted

Fraction = Annotated[float, Ge(0), Le(1)]
PositiveInt = Annotated[int, Gt(0)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Relaxation = Annotated[float, Ge(1), Le(1.9)]


def _check_size_ratio(ratio: float) -> float:
    if ratio and ratio < 1:  # the schema's words say what is wanted
        raise PydanticCustomError("size_ratio", "neither 0 nor at least 1")
    return ratio


SizeRatio = Annotated[
    float,
    AfterValidator(_check_size_ratio),
    WithJsonSchema(
        {"type": "number", "minimum": 0, "not": {"exclusiveMinimum": 0, "exclusiveMaximum": 1}}
    ),
    Wanted("0 or a number >= 1"),
]
"""A multiple of the mean size of a cluster; 0 for none."""
Rgb = Annotated[tuple[float, ...], Len(3, 3)]

RunName = Annotated[
    str,
    StringConstraints(pattern=RUN_NAME, min_length=1, max_length=RUN_NAME_LENGTH),
    Wanted(RUN_NAME_WANTED),
]
"""A DNS-1035 label."""

OptionalModelName = Annotated[
    str,
    AfterValidator(check_name),
    WithJsonSchema({"type": "string", "enum": ["", *read_networks()]}),
    Wanted(f"a torchvision classification model or {SMALL_RESNET}; or nothing"),
]
"""A network by its name; empty where it is not given."""
ModelName = Annotated[
    str,
    StringConstraints(min_length=1),
    AfterValidator(check_name),
    WithJsonSchema({"type": "string", "enum": [*read_networks()]}),
    Wanted(f"a torchvision classification model or {SMALL_RESNET}"),
]
LayerName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$"),
    Wanted("a layer's name, such as res5avg or layer4.1.bn2"),
]
"""A module of a network by its dotted name, or an alias; features lie in a folder of this name."""
OtherRunName = Annotated[
    str,
    StringConstraints(pattern=r"^([a-z]([-a-z0-9]*[a-z0-9])?)?$", max_length=40),
    Wanted("another run's name, or nothing"),
]
_STEP: Final = r"([^/.\x00][^/\x00]*|\.([^/.\x00][^/\x00]*)?|\.\.[^/\x00]+)"
"""A part of a path that is not `..`, written without lookahead: Helm's engine has none."""
RelativePath = Annotated[
    str,
    StringConstraints(pattern=rf"^({_STEP}(/({_STEP})?)*)?$"),
    Wanted("a path below its root, so without `/` in front and without `..`"),
]
"""A path below one of the two roots; empty where it is not given."""
