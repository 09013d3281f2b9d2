"""Which networks there are, and how large: what a plan must know and has no torch to ask.

networks.json holds what torchvision says of itself; scripts/write_networks.py measures it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

from clusterfit.config.showing import show_text

SMALL_RESNET: Final = "resnet8_small"
"""Our own network, for images of some 8 to 64 pixels."""

REFERENCE_PIXELS: Final = 224
"""Side of the images at which the networks were measured."""

FLOAT_BYTES: Final = 4
"""Weights are float32."""

_HEADER_BYTES_PER_TENSOR: Final = 110
"""Of a weights file: names, shapes and offsets, roughly."""


@dataclass(frozen=True, slots=True)
class Network:
    """A network's sizes, at 224 pixels where they depend on the image."""

    name: str
    backbone_parameters: int
    """Without the head."""
    parameters_per_class: int
    """That the head has."""
    num_tensors: int
    buffer_bytes: int
    """Statistics of batch norms and the like, which a weights file also holds."""
    features: Mapping[str, Sequence[int]]
    """Layer -> its channels and, where it has more axes, its places; not every layer is here."""

    def find_width(self, layer: str, crop_pixels: int, is_pooled: bool) -> int | None:
        """Return how many numbers a layer gives for an image, or None where it is not on record."""
        shape = self.features.get(layer)
        if shape is None:
            return None
        channels, *places = shape
        if is_pooled or not places or places == [1]:
            return channels
        return channels * places[0] if crop_pixels == REFERENCE_PIXELS else None

    def count_parameters(self, num_classes: int) -> int:
        """Return the parameters with a head of so many classes."""
        return self.backbone_parameters + num_classes * self.parameters_per_class

    def weights_bytes(self, num_classes: int) -> int:
        """Return the size of a weights file, up to some bytes of its header."""
        numbers = FLOAT_BYTES * self.count_parameters(num_classes) + self.buffer_bytes
        return numbers + _HEADER_BYTES_PER_TENSOR * self.num_tensors


@cache
def read_networks() -> dict[str, Network]:
    """Return all networks by name."""
    text = resources.files("clusterfit.config").joinpath("networks.json").read_text("utf-8")
    return {
        name: Network(
            name,
            sizes["parameters"],
            sizes["parameters_per_class"],
            sizes["tensors"],
            sizes["buffer_bytes"],
            sizes["features"],
        )
        for name, sizes in json.loads(text)["networks"].items()
    }


def check_name(name: str) -> str:
    """Return the name of a network, or of none where it is empty.

    Raises:
        ValueError: there is none of that name; tells near ones.
    """
    names = read_networks()
    if name and name not in names:
        raise ValueError(explain_unknown(name, names))
    return name


def explain_unknown(name: str, names: Iterable[str]) -> str:
    """Say that a network is not among those that there are, and which are near."""
    near = difflib.get_close_matches(name, names, n=3)
    return f"got {show_text(name)}, want a torchvision classification model or {SMALL_RESNET}" + (
        f"; did you mean {' or '.join(near)}?" if near else ""
    )
