"""Weights of ours as other projects read them: torchvision's plain state dict, VISSL's checkpoint.

VISSL's layout is that of its own converter, `sharded_to_consolidated_checkpoint` in
vissl/utils/checkpoint.py. It loads there with the documented WEIGHTS_INIT and
STATE_DICT_KEY_NAME "classy_state_dict", without prefixes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from clusterfit.artifacts.files import write_file
from clusterfit.errors import ConfigError, InvalidDataError
from clusterfit.interop.keys import VISSL_LINEAR_HEAD, strip_wrappers
from clusterfit.interop.weights import read_state_dict

if TYPE_CHECKING:
    from torch import Tensor

Layout = Literal["torchvision", "vissl"]

_VISSL_TRUNK: Final = "_feature_blocks."
_VISSL_HEAD: Final = re.compile(r"heads\.\d+\.")
_RESNET_HEAD: Final = "fc."
_RESNET_PARTS: Final = frozenset({"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"})
"""Of a ResNet with four stages. Blocks of two convolutions (18 and 34 layers) are in VISSL's last
commits only."""

_SUFFIXES: Final[dict[Layout, tuple[str, ...]]] = {
    "torchvision": (".pth", ".pt", ".safetensors"),
    "vissl": (".torch", ".pth"),
}


@dataclass(frozen=True, slots=True)
class Export:
    """What was written."""

    path: Path
    layout: Layout
    num_backbone_tensors: int
    num_head_tensors: int
    left_out: tuple[str, ...]
    """Keys of the source that the layout has no place for."""


def export_weights(source: Path, target: Path, layout: Layout) -> Export:
    """Write a weights file in another project's layout; every value keeps its bits.

    Args:
        source: A run's model.safetensors, or any other file that `read_state_dict` reads, so that
            a VISSL checkpoint can become a torchvision file.
        target: Where to write; its ending says how: .safetensors, or .pth, .pt and .torch for
            torch.save. It appears whole or not at all.
        layout: `torchvision`: plain keys, head included. `vissl`: trunk and heads apart, for
            ResNets, wide ResNets and ResNeXts.

    Raises:
        ConfigError: the ending does not go with the layout.
        MissingInputError, InvalidDataError: the source cannot be read, or is no network that
            VISSL has a trunk for.
        WriteError: the target cannot be written.
    """
    if target.suffix not in _SUFFIXES[layout]:
        raise ConfigError(
            f"{target}: a file of layout {layout} ends in {' or '.join(_SUFFIXES[layout])}"
        )
    found = read_state_dict(source)
    named = {_name_as_torchvision(key): key for key in found.tensors}
    if len(named) != len(found.tensors):
        raise InvalidDataError(f"{source}: two of its keys are one without their prefixes")
    left_out = tuple(key for key in named if _VISSL_HEAD.match(key))
    tensors = {key: found.tensors[named[key]] for key in named if key not in left_out}
    if layout == "vissl":
        _check_is_resnet(source, tensors)
    write_file(target, _serialise(tensors, target.suffix, layout))
    num_head = sum(key.startswith(_RESNET_HEAD) for key in tensors)
    return Export(target, layout, len(tensors) - num_head, num_head, left_out)


def _check_is_resnet(source: Path, keys: Collection[str]) -> None:
    """Raise InvalidDataError for a network that VISSL's ResNet trunk is not."""
    parts = {key.partition(".")[0] for key in keys}
    if parts | {"fc"} != _RESNET_PARTS:
        others = ", ".join(sorted(parts - _RESNET_PARTS)[:3]) or "no layer4"
        raise InvalidDataError(
            f"{source}: weights are written for VISSL's trunk `resnet` alone (ResNets, wide "
            f"ResNets and ResNeXts), and these are another network's ({others}); export them with "
            "the layout torchvision"
        )


def _name_as_torchvision(key: str) -> str:
    """Return a key without wrappers; VISSL's single linear head is a ResNet's fc."""
    key = strip_wrappers(key)
    if key.startswith(VISSL_LINEAR_HEAD):
        return _RESNET_HEAD + key.removeprefix(VISSL_LINEAR_HEAD)
    return key


def _serialise(tensors: dict[str, Tensor], suffix: str, layout: Layout) -> bytes:
    import torch
    from safetensors.torch import save

    # A clone of its own for each, because a file that shares storage would be written whole.
    own = {key: value.detach().clone().contiguous() for key, value in tensors.items()}
    if suffix == ".safetensors":
        return save(own, metadata={"format": "pt"})
    buffer = io.BytesIO()
    torch.save(own if layout == "torchvision" else _lay_out_as_vissl(own), buffer)
    return buffer.getvalue()


def _lay_out_as_vissl(tensors: dict[str, Tensor]) -> dict[str, object]:
    trunk = {
        _VISSL_TRUNK + key: value
        for key, value in tensors.items()
        if not key.startswith(_RESNET_HEAD)
    }
    heads = {
        VISSL_LINEAR_HEAD.removeprefix("heads.") + key.removeprefix(_RESNET_HEAD): value
        for key, value in tensors.items()
        if key.startswith(_RESNET_HEAD)
    }
    model = {"model": {"trunk": trunk, "heads": heads}}
    return {"type": "consolidated", "classy_state_dict": {"base_model": model}}
