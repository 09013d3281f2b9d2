"""Load other people's weights into a backbone of ours: all that was accepted, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from clusterfit.config.sections.inputs import Weights
from clusterfit.errors import InvalidDataError
from clusterfit.interop.acceptance import (
    check_coverage,
    check_is_not_foreign,
    check_is_not_larger,
    check_shapes,
    convert_tensor,
    list_examples,
)
from clusterfit.interop.checkpoint import read_checkpoint
from clusterfit.interop.head import find_head, is_of_head
from clusterfit.interop.keys import (
    KeyMap,
    holds_same_numbers,
    is_derived,
    is_skipped,
    map_keys,
)
from clusterfit.interop.locate import StateDict, locate_state_dict
from clusterfit.interop.report import LoadReport

if TYPE_CHECKING:
    from torch import Tensor, nn

_VISSL_KEY: Final = "classy_state_dict"


def read_state_dict(path: Path, state_dict_key: str = "") -> StateDict:
    """Read the state dict of a weights file onto the CPU, executing nothing in it.

    Args:
        path: A safetensors file or one of torch.save, plain, DDP's or VISSL's.
        state_dict_key: Dotted keys that lead to the state dict; empty: it is found.

    Raises:
        MissingInputError: there is no such file.
        InvalidDataError: it is no weights file, is damaged, needs code to be run, or holds no
            state dict where one is looked for.
    """
    return locate_state_dict(read_checkpoint(path), state_dict_key)


def load_backbone_weights(
    model: nn.Module, path: Path, weights: Weights, *, head: str | None = None
) -> LoadReport:
    """Load a weights file into a model; the model is only changed when all of it is accepted.

    `state_dict_key`, `remove_prefix`, `append_prefix` and `skip_layers` mean what VISSL's
    WEIGHTS_INIT means by them (`map_keys` and `is_skipped` state the differences); as there, the
    prefixes have no effect with `state_dict_key: classy_state_dict`, which is noted. VISSL loads
    whatever matches and goes on with the rest at random; here less than `min_loaded_fraction` of
    the backbone is an error. The head is loaded too where all of it fits, and never counts.

    Args:
        model: A bare network with torchvision's key names.
        path: The weights file.
        weights: How its keys are meant, and how much of the backbone must be in it.
        head: Dotted name of the model's final classifier; empty: it has none; None: it is found.

    Raises:
        MissingInputError: there is no such file.
        InvalidDataError: nothing, or less than the wanted fraction of the backbone, is in it; a
            tensor of the backbone has another shape or kind of number, or values that are not
            finite; two of its keys mean one; or whatever `read_state_dict` refuses.
    """
    file = read_state_dict(path, weights.state_dict_key)
    head = find_head(model) if head is None else head
    targets = _tensors_of(model)
    key_map = _map_file_keys(file, weights, list(targets), head)
    sources = key_map.sources
    check_is_not_foreign(file, key_map.strangers.values())
    skipped = [key for key in targets if is_skipped(key, weights.skip_layers, head)]
    fitting = {
        key
        for key, source in sources.items()
        if holds_same_numbers(file.tensors[source].shape, targets[key].shape)
    }
    candidates = [
        key
        for key in targets
        if key in sources and key not in skipped and (key in fitting or not is_derived(key))
    ]
    misshapen = [key for key in candidates if key not in fitting]
    check_shapes(file, sources, targets, [key for key in misshapen if not is_of_head(key, head)])
    head_keys = [key for key in targets if is_of_head(key, head)]
    head_fits = all(key in candidates and key not in misshapen for key in head_keys)
    unfit = [] if head_fits else [key for key in candidates if key in head_keys]
    accepted = [key for key in candidates if key not in unfit]

    wanted = [
        key
        for key in targets
        if key not in skipped and key not in head_keys and not is_derived(key)
    ]
    num_loaded = check_coverage(
        file, {key: targets[key] for key in wanted}, accepted, weights.min_loaded_fraction
    )
    surplus = _find_surplus(model, file, key_map.strangers, head)
    check_is_not_larger(file, num_loaded, surplus, weights.min_loaded_fraction)
    converted = {key: convert_tensor(file, sources[key], targets[key]) for key in accepted}
    model.load_state_dict(converted, strict=False)

    accounted = {*accepted, *skipped, *unfit}
    missing = [key for key in targets if key not in accounted]
    absent = [key for key in missing if key in wanted]
    used = {sources[key] for key in accounted if key in sources}
    return LoadReport(
        path=path,
        file_format=file.file_format,
        found_at=file.found_at,
        reason=file.reason,
        loaded=tuple(accepted),
        missing=tuple(missing),
        skipped=tuple(skipped),
        mismatched=tuple(unfit),
        unused=tuple(key for key in file.tensors if key not in used),
        head=head,
        head_is_loaded=bool(head_keys) and head_fits,
        num_backbone_loaded=num_loaded,
        num_backbone_wanted=len(wanted),
        notes=(
            *key_map.notes,
            *_note("are not in the file and stay as they were", absent),
            *_note("of the file's are for the backbone's layers, but not in the model", surplus),
        ),
    )


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's state without what modules may keep there beside tensors."""
    import torch

    state = model.state_dict()
    return {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}


def _map_file_keys(
    file: StateDict, weights: Weights, model_keys: Sequence[str], head: str
) -> KeyMap:
    """Return the file's key for each of the model's that it has, with all there is to note."""
    remove_prefix, append_prefix = weights.remove_prefix, weights.append_prefix
    notes = list(file.notes)
    if weights.state_dict_key == _VISSL_KEY and (remove_prefix or append_prefix):
        notes.append(
            f"removePrefix and appendPrefix have no effect with stateDictKey: {_VISSL_KEY}, as in "
            "VISSL"
        )
        remove_prefix = append_prefix = ""
    key_map = map_keys(
        file.tensors, model_keys, remove_prefix=remove_prefix, append_prefix=append_prefix,
        head=head,
    )  # fmt: skip
    if key_map.collisions:
        first, second, key = key_map.collisions[0]
        others = len(key_map.collisions) - 1
        more = f" (and {others} more such pairs)" if others else ""
        raise InvalidDataError(
            f"{file.path}: {first} and {second} both mean {key}{more}; choose "
            "with removePrefix, appendPrefix or stateDictKey"
        )
    notes += key_map.notes
    notes += [
        f"skipLayers: {word!r} is in no key of the model"
        for word in weights.skip_layers
        if not any(is_skipped(key, [word], head) for key in model_keys)
    ]
    return replace(key_map, notes=tuple(notes))


def _find_surplus(
    model: nn.Module, file: StateDict, strangers: Mapping[str, str], head: str
) -> list[str]:
    """Return the file's keys that lie in the backbone's modules, but not in the model's network.

    The head's module is left out, because other projects put whole projectors there, and so are
    counters, which profilers leave behind, and what networks compute by themselves.
    """
    modules = {name for name, _ in model.named_children()} - {head.partition(".")[0], "heads"}
    return [
        file_key
        for key, file_key in strangers.items()
        if key.partition(".")[0] in modules and file.tensors[file_key].ndim and not is_derived(key)
    ]


def _note(what: str, keys: Sequence[str]) -> list[str]:
    return [f"{len(keys)} tensors {what}: {list_examples(keys)}"] if keys else []
