"""What a weights file holds and which networks it would fill, without executing anything in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from clusterfit.config.networks import read_networks
from clusterfit.interop.foreign import describe_foreign_network
from clusterfit.interop.formats import FileFormat
from clusterfit.interop.head import find_head, is_of_head
from clusterfit.interop.keys import (
    Shape,
    holds_same_numbers,
    is_derived,
    map_keys,
    strip_wrappers,
    suggest_prefixes,
)
from clusterfit.interop.locate import StateDict
from clusterfit.interop.spelling import SPELLINGS
from clusterfit.interop.weights import read_state_dict

if TYPE_CHECKING:
    from torch import nn

_MAX_SIZE_RATIO: Final = 2.2
"""Between the numbers of tensors of a file and a network. A file may hold its network twice, with a
momentum encoder, and half of a network is the least that is told."""

_TOO_LARGE_TO_TRY: Final = ("_16gf", "_32gf", "_128gf")
"""RegNets compute their widths with real tensors, so building one costs its full memory."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file."""

    key: str
    shape: Shape
    dtype: str
    """As torch prints it, without `torch.`: float32, bfloat16, int64."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How well a file fills a network."""

    model: str
    """Name of the network, as `extract.model` takes it."""
    num_found: int
    """Tensors of the backbone that the file has, by key and shape."""
    num_wanted: int
    """Tensors of the backbone, without head and counters."""
    num_surplus: int
    """Tensors of the file that no part of the network takes, heads and counters apart: many of
    them mean that the file is a larger network's."""
    num_misshapen: int
    """Tensors of the backbone that have another shape in the file: it would be refused."""
    settings: str
    """What a run file must say for it, such as `removePrefix: encoder.`; empty: nothing."""

    @property
    def fraction(self) -> float:
        """Of the backbone that is found, or of the file that is used: the smaller, 0 to 1."""
        return self.num_found / max(1, self.num_wanted, self.num_found + self.num_surplus)


@dataclass(frozen=True, slots=True)
class Inspection:
    """Everything `clusterfit weights inspect FILE` tells."""

    path: Path
    size_bytes: int
    file_format: FileFormat
    found_at: str
    reason: str
    tensors: tuple[TensorEntry, ...]
    """In the file's order."""
    num_values: int
    """Of all tensors together."""
    fits: tuple[Fit, ...]
    """Networks of which more than half would be filled, the best first."""
    foreign: str
    """What network it is where torchvision has none such, and its weights are refused; else empty.
    """
    notes: tuple[str, ...]


def inspect_weights(
    path: Path, state_dict_key: str = "", models: Iterable[str] | None = None
) -> Inspection:
    """Tell what a weights file is, what is in it, and which networks it would fill.

    Args:
        path: The file.
        state_dict_key: As in a run file's weights; empty: the state dict is found.
        models: Names of torchvision's networks to try; None: all of them but the largest RegNets,
            of families that share names with the file. Their tensors are not allocated.

    Raises:
        MissingInputError, InvalidDataError: as `read_state_dict`.
    """
    file = read_state_dict(path, state_dict_key)
    names = list(_find_candidates(file)) if models is None else models
    fits = (_measure_fit(file, name, _build_without_values(name)) for name in names)
    return Inspection(
        path=path,
        size_bytes=path.stat().st_size,
        file_format=file.file_format,
        found_at=file.found_at,
        reason=file.reason,
        tensors=tuple(
            TensorEntry(key, tuple(value.shape), str(value.dtype).removeprefix("torch."))
            for key, value in file.tensors.items()
        ),
        num_values=sum(value.numel() for value in file.tensors.values()),
        fits=tuple(
            sorted(
                (fit for fit in fits if 2 * fit.num_found > fit.num_wanted),
                key=lambda fit: (-fit.fraction, fit.model),
            )
        ),
        foreign=describe_foreign_network(file.tensors),
        notes=file.notes,
    )


def _find_candidates(file: StateDict) -> Iterator[str]:
    """Yield the networks of about a file's size, of each family that shares names with it."""
    from torchvision import models

    families: dict[str, list[str]] = {}
    for name in models.list_models(module=models):
        size_ratio = read_networks()[name].num_tensors / len(file.tensors)
        if 1 / _MAX_SIZE_RATIO <= size_ratio <= _MAX_SIZE_RATIO:
            families.setdefault(models.get_model_builder(name).__module__, []).append(name)
    stripped = [strip_wrappers(key) for key in file.tensors]
    # Prefixes are unknown yet, and members differ in depth: the ends of names are compared.
    file_ends = {_end_of(key) for key in stripped} | {
        _end_of(spelling.respell(key)) for spelling in SPELLINGS for key in stripped
    }
    for family in families.values():
        affordable = [name for name in family if not name.endswith(_TOO_LARGE_TO_TRY)]
        if not affordable:
            continue
        member = _build_without_values(affordable[0])
        member_ends = {_end_of(key) for key in member.state_dict()}
        if 2 * len(file_ends & member_ends) > len(member_ends):
            yield from affordable


def _end_of(key: str) -> str:
    """Return the last two parts of a key without numbers: conv1.weight, bn.bias."""
    return ".".join([part for part in key.split(".") if not part.isdigit()][-2:])


def _build_without_values(name: str) -> nn.Module:
    """Build a network of torchvision on the meta device, which allocates nothing."""
    import torch
    from torchvision import models

    settings = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        model: nn.Module = models.get_model(name, weights=None, **settings)
    return model


def _measure_fit(file: StateDict, name: str, model: nn.Module) -> Fit:
    head = find_head(model)
    wanted = {
        key: tuple(value.shape)
        for key, value in model.state_dict().items()
        if not is_of_head(key, head) and not is_derived(key)
    }
    shapes = {key: tuple(value.shape) for key, value in file.tensors.items()}

    suggestion = None
    sources = map_keys(shapes, wanted).sources
    if 2 * len(sources) <= len(wanted):
        suggestion = suggest_prefixes(shapes, wanted)
    remove_prefix, append_prefix = "", ""
    if suggestion:
        remove_prefix, append_prefix = suggestion.remove_prefix, suggestion.append_prefix
        sources = map_keys(
            shapes, wanted, remove_prefix=remove_prefix, append_prefix=append_prefix
        ).sources
    num_found = sum(holds_same_numbers(shapes[sources[key]], wanted[key]) for key in sources)
    num_offered = sum(
        bool(shape)
        and key.startswith(remove_prefix)
        and not is_derived(key)
        and not _is_heads(key, remove_prefix, head)
        for key, shape in shapes.items()
    )
    return Fit(
        model=name,
        num_found=num_found,
        num_wanted=len(wanted),
        num_surplus=max(0, num_offered - len(sources)),
        num_misshapen=len(sources) - num_found,
        settings=str(suggestion or ""),
    )


def _is_heads(key: str, remove_prefix: str, head: str) -> bool:
    """Tell whether a key of a file belongs to a head, the model's or VISSL's."""
    (name,) = map_keys([key], (), remove_prefix=remove_prefix).strangers or (key,)
    return name.startswith("heads.") or is_of_head(name, head)
