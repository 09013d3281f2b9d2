"""Find the state dict inside a checkpoint, and say where it was and why it was taken.

VISSL's layout, from vissl/utils/checkpoint.py and vissl/models/base_ssl_model.py::

    {"classy_state_dict": {"base_model": {"model": {"trunk": {...}, "heads": {...}}}}, ...}

Its tensors come back as VISSL itself names them once the parts are joined: `trunk.<key>` and
`heads.<key>`. `trunk` and `heads` are its words for backbone and head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from clusterfit.errors import InvalidDataError
from clusterfit.interop.checkpoint import Checkpoint
from clusterfit.interop.formats import FileFormat

if TYPE_CHECKING:
    from torch import Tensor

TOP_LEVEL: Final = "the top level"
VISSL_LAYOUT: Final = "VISSL's layout of trunk and heads"

_WRAPPERS: Final = (
    "state_dict", "model_state_dict", "model", "module", "net", "network", "backbone", "weights",
    "params", "state_dict_ema", "model_ema",
)  # fmt: skip
"""Names under which training scripts save a model, the most usual first."""

_NO_MODELS: Final = ("optim", "sched", "scaler", "meter", "loss", "rng", "hook")
"""Words in the names of state that is not a model's."""

_MAX_DEPTH: Final = 8
"""Dicts inside dicts; a pickled one may even contain itself."""

_VISSL_PATHS: Final = (
    ("classy_state_dict", "base_model", "model"), ("base_model", "model"), ("model",), (),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class StateDict:
    """A model's tensors in a file, and where they were."""

    path: Path
    file_format: FileFormat
    found_at: str
    """Dotted keys that lead to them inside the file, or TOP_LEVEL."""
    reason: str
    """Why these tensors were taken for the model's."""
    tensors: dict[str, Tensor]
    """By the file's own keys; a VISSL checkpoint's begin with `trunk.` and `heads.`."""
    notes: tuple[str, ...] = ()
    """What a user should know: other candidates, entries that are no tensors."""


def locate_state_dict(checkpoint: Checkpoint, state_dict_key: str = "") -> StateDict:
    """Return the state dict of a checkpoint.

    Args:
        checkpoint: What a file holds.
        state_dict_key: Dotted keys that lead to it, as VISSL's STATE_DICT_KEY_NAME (which knows
            one key only); empty: VISSL's layout, a plain state dict, or one of the usual wrappers.

    Raises:
        InvalidDataError: the key leads nowhere, nothing or more than one thing looks like a
            state dict, or a VISSL file only points to other files.
    """
    _check_is_consolidated(checkpoint)
    node, at, rest = checkpoint.content, "", state_dict_key
    while rest:
        names = _leading_keys(node, rest)
        if not names:
            raise InvalidDataError(
                f"{checkpoint.path}: stateDictKey {state_dict_key!r} is not in the file: "
                f"{at or TOP_LEVEL} holds {_describe(node)}"
            )
        name, node = names[0]
        at, rest = _join(at, name), rest[len(name) + 1 :]
    found = _detect(node, at, checkpoint)
    if state_dict_key and found.reason != VISSL_LAYOUT:
        return replace(found, reason="named by stateDictKey")
    return found


def _detect(node: object, at: str, checkpoint: Checkpoint) -> StateDict:
    """Find the state dict at or below a node; `at` is where the node stands."""
    path, file_format = checkpoint.path, checkpoint.file_format
    if not isinstance(node, Mapping):
        raise InvalidDataError(f"{path}: {at or TOP_LEVEL} holds {_describe(node)}, no state dict")
    if at.count(".") > _MAX_DEPTH:
        raise InvalidDataError(f"{path}: its dicts are nested too deeply to be weights: {at}")
    vissl = _detect_vissl(node, at, checkpoint)
    if vissl is not None:
        return vissl
    inner = [
        name for name, child in node.items() if isinstance(name, str) and _holds_tensors(child)
    ]
    usual = [name for name in _WRAPPERS if name in inner]
    tensors = {name: value for name, value in node.items() if _is_entry(name, value)}
    # A lone 0-d tensor beside a dict is a counter or a best accuracy, not a state dict.
    if tensors and not usual and (not inner or any(value.ndim for value in tensors.values())):
        others = len(node) - len(tensors)
        notes = (f"{others} entries beside the tensors were left alone",) if others else ()
        reason = "its entries are tensors"
        return StateDict(path, file_format, at or TOP_LEVEL, reason, tensors, notes)
    models = [name for name in inner if not any(word in name.lower() for word in _NO_MODELS)]
    if not usual and len(models) > 1:
        raise InvalidDataError(
            f"{path}: several state dicts at {at or TOP_LEVEL}: {_list_names(models)}; say with "
            f"stateDictKey which one is meant, for example stateDictKey: {_join(at, models[0])}"
        )
    if not usual and not models:
        raise InvalidDataError(
            f"{path}: no state dict found: {at or TOP_LEVEL} holds {_describe(node)}"
        )
    chosen = (usual or models)[0]
    found = _detect(node[chosen], _join(at, chosen), checkpoint)
    left = [_join(at, name) for name in models if name != chosen]
    if left:
        note = f"also in the file, not used: {_list_names(left)} (stateDictKey chooses)"
        found = replace(found, notes=(note, *found.notes))
    if found.reason == VISSL_LAYOUT:
        return found
    return replace(found, reason="a usual name" if usual else "the only state dict in the file")


def _detect_vissl(
    node: Mapping[object, object], at: str, checkpoint: Checkpoint
) -> StateDict | None:
    for steps in _VISSL_PATHS:
        model: object = node
        for step in steps:
            model = model.get(step) if isinstance(model, Mapping) else None
        if not isinstance(model, Mapping) or not isinstance(model.get("trunk"), Mapping):
            continue
        found_at = ".".join([*([at] if at else []), *steps]) or TOP_LEVEL
        heads = model.get("heads")
        if isinstance(heads, list):  # How sharded training saves them: one dict a head.
            heads = {
                f"{number}.{key}": value
                for number, head in enumerate(heads)
                if isinstance(head, Mapping)
                for key, value in head.items()
            }
        parts = {"trunk": model["trunk"], "heads": heads if isinstance(heads, Mapping) else {}}
        tensors = {
            f"{part}.{name}": value
            for part, entries in parts.items()
            for name, value in entries.items()
            if _is_entry(name, value)
        }
        if not tensors:
            raise InvalidDataError(
                f"{checkpoint.path}: a VISSL checkpoint without tensors at {found_at}"
            )
        return StateDict(checkpoint.path, checkpoint.file_format, found_at, VISSL_LAYOUT, tensors)
    return None


def _check_is_consolidated(checkpoint: Checkpoint) -> None:
    content = checkpoint.content
    kind = content.get("type") if isinstance(content, Mapping) else None
    if isinstance(kind, str) and kind in {"shard", "shard_list", "slice", "slice_list"}:
        raise InvalidDataError(
            f"{checkpoint.path}: a VISSL checkpoint of type {kind}, with weights in other files; "
            "give a consolidated one (VISSL's extra_scripts/convert_sharded_checkpoint.py makes it "
            "from shards)"
        )


def _is_entry(name: object, value: object) -> bool:
    import torch

    return isinstance(name, str) and isinstance(value, torch.Tensor)


def _holds_tensors(node: object) -> bool:
    """Tell whether a dict holds tensors by name, at any depth; it may contain itself."""
    seen: set[int] = set()
    pending = [node]
    while pending:
        current = pending.pop()
        if not isinstance(current, Mapping) or id(current) in seen:
            continue
        seen.add(id(current))
        if any(_is_entry(name, value) for name, value in current.items()):
            return True
        pending.extend(value for name, value in current.items() if isinstance(name, str))
    return False


def _leading_keys(node: object, dotted: str) -> list[tuple[str, object]]:
    """Return the entries of a dict that a dotted path can begin with, the longest key first."""
    if not isinstance(node, Mapping):
        return []
    parts = dotted.split(".")
    names = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return [(name, node[name]) for name in names if name in node]


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def _describe(node: object) -> str:
    if not isinstance(node, Mapping):
        return f"a {type(node).__name__}"
    return f"the keys {_list_names([str(name) for name in node])}" if node else "nothing"


def _list_names(names: list[str], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    shown = (name if name.isprintable() else repr(name) for name in names[:limit])
    return ", ".join(shown) + more
