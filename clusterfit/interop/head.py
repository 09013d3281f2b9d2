"""Which part of a classification network is its head."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def find_head(model: nn.Module) -> str:
    """Return the dotted name of a network's final classifier, empty where it has none.

    It is the layer with parameters that was registered last, if that is linear or, as in
    SqueezeNet, a convolution of one pixel. This holds for every classification network of
    torchvision (a test goes through them) and for a backbone whose head was replaced by Identity,
    where a normalisation or a larger convolution comes last.
    """
    from torch import nn

    last_name, last_module = "", model
    for name, module in model.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            last_name, last_module = name, module
    is_pointwise = isinstance(last_module, nn.Conv2d) and last_module.kernel_size == (1, 1)
    return last_name if isinstance(last_module, nn.Linear) or is_pointwise else ""


def is_of_head(key: str, head: str) -> bool:
    """Tell whether a state dict's key belongs to the head of that name."""
    return bool(head) and key.startswith(f"{head}.")
