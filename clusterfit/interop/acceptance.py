"""What a file must be before anything of it reaches a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from clusterfit.errors import InvalidDataError
from clusterfit.interop.foreign import describe_foreign_network
from clusterfit.interop.keys import suggest_prefixes
from clusterfit.interop.locate import StateDict

if TYPE_CHECKING:
    from torch import Tensor


def check_is_not_foreign(file: StateDict, strangers: Collection[str]) -> None:
    """Raise InvalidDataError for a network that is known and that torchvision does not have.

    Some share so many names with one that it has that nine tenths of them would load.
    """
    network = describe_foreign_network(strangers)
    if network:
        raise InvalidDataError(
            f"{file.path}: the weights of {network}. Keys that give it away are like "
            f"{list_examples(list(strangers))}"
        )


def check_shapes(
    file: StateDict, sources: Mapping[str, str], targets: Mapping[str, Tensor], keys: Sequence[str]
) -> None:
    """Raise InvalidDataError for keys of the model that have another shape in the file."""
    if not keys:
        return
    key = keys[0]
    more = f"; so have {len(keys) - 1} more" if len(keys) > 1 else ""
    raise InvalidDataError(
        f"{file.path}: {sources[key]} has another shape than the model's {key}: "
        f"{_shape(file.tensors[sources[key]])} in the file, {_shape(targets[key])} in the model"
        f"{more}. These are the weights of another network or image size; skipLayers leaves "
        "tensors out"
    )


def check_coverage(
    file: StateDict,
    wanted: Mapping[str, Tensor],
    accepted: Collection[str],
    min_loaded_fraction: float,
) -> int:
    """Return how many of the wanted tensors of a model a file has.

    Raises:
        InvalidDataError: none, or less than the fraction; with keys of both, and the prefixes that
            would make most of them match.
    """
    if not wanted:
        raise InvalidDataError(f"{file.path}: skipLayers leaves nothing of the backbone to load")
    missing = [key for key in wanted if key not in accepted]
    num_loaded = len(wanted) - len(missing)
    if num_loaded and num_loaded >= min_loaded_fraction * len(wanted):
        return num_loaded
    how_many = (
        f"only {num_loaded} of {len(wanted)} backbone tensors ({num_loaded / len(wanted):.1%}) are "
        f"in it, want at least minLoadedFraction: {min_loaded_fraction}"
        if num_loaded
        else f"none of the {len(wanted)} backbone tensors is in it"
    )
    suggestion = suggest_prefixes(
        {key: tuple(value.shape) for key, value in file.tensors.items()},
        {key: tuple(value.shape) for key, value in wanted.items()},
    )
    advice = (
        f"{suggestion} would match {suggestion.num_matches} of {len(wanted)}"
        if suggestion and suggestion.num_matches > num_loaded
        else "no prefix would make most of them match: these are another network's weights"
    )
    raise InvalidDataError(
        f"{file.path}: {how_many}. The file's keys (at {file.found_at}) are like "
        f"{list_examples(list(file.tensors))}; the model misses {list_examples(missing)}; {advice}"
    )


def check_is_not_larger(
    file: StateDict, num_loaded: int, surplus: Sequence[str], min_loaded_fraction: float
) -> None:
    """Raise InvalidDataError for the weights of a larger network.

    Every tensor of a ResNet-50 is in a ResNet-101's file, with the same shape; loading these gives
    a network that nobody has trained. So as much of the file's network must be used as of the
    model's must be loaded.

    Args:
        file: Where the weights are from.
        num_loaded: Tensors of the backbone that were found in it.
        surplus: Keys of the file that lie inside the backbone's modules, but are not the model's.
        min_loaded_fraction: Of the tensors that the file has inside the backbone's modules.
    """
    inside = num_loaded + len(surplus)
    if num_loaded < min_loaded_fraction * inside:
        raise InvalidDataError(
            f"{file.path}: the weights of another network: the model uses only {num_loaded} of the "
            f"{inside} tensors that the file has for its layers, want at least "
            f"minLoadedFraction: {min_loaded_fraction}; unused are {list_examples(surplus)}"
        )


def convert_tensor(file: StateDict, source: str, target: Tensor) -> Tensor:
    """Return a tensor of the file as the model's type of number.

    Raises:
        InvalidDataError: it is no dense tensor of the same kind of number, or not all finite.
    """
    import torch

    value = file.tensors[source]
    is_dense = value.layout == torch.strided and not value.is_meta
    # A counter may have become a float with the rest; a weight that is no float is quantised.
    is_number = value.is_floating_point() or not (target.is_floating_point() or value.is_complex())
    if not is_dense or not is_number:
        raise InvalidDataError(
            f"{file.path}: {source} is {value.dtype}, {value.layout}, on {value.device}; want "
            f"dense values that become {target.dtype}"
        )
    converted = value.to(target.dtype).reshape(target.shape)
    finite = torch.isfinite(converted if target.is_floating_point() else value)
    num_bad = value.numel() - int(finite.sum())
    if num_bad:
        raise InvalidDataError(
            f"{file.path}: {source} has {num_bad} of {value.numel()} values that are not finite "
            "(NaN or infinite): the training that wrote it has diverged, or the file is damaged"
        )
    return converted


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "a single number"


def list_examples(keys: Sequence[str]) -> str:
    """Return the first, the middle and the last key: prefixes often differ between them."""
    chosen = [keys[0], keys[len(keys) // 2], keys[-1]] if keys else []
    return ", ".join(key if key.isprintable() else repr(key) for key in dict.fromkeys(chosen))
