"""From the keys of a file to the keys of a model.

VISSL loads in its own name space: `trunk._feature_blocks.<key>` when it trains,
`trunk.base_model._feature_blocks.<key>` when it extracts, `heads.<number>.<key>` for heads. Its
REMOVE_PREFIX and APPEND_PREFIX bring a file's keys there. Ours is torchvision's: the same `<key>`
without the words in front. So both settings are applied exactly as VISSL applies them, and then
these words, and the wrappers of DDP and torch.compile, are taken off each key that is not already
a key of the model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from clusterfit.interop.spelling import SPELLINGS, find_spelling

Shape = tuple[int, ...]

_WRAPPER_WORDS: Final = re.compile(
    r"^(?:(?:module|_orig_mod|model|trunk|base_model|_feature_blocks)\.)+"
)
"""DDP, torch.compile, a module around the network, and the three of VISSL. No torchvision model's
own keys begin so."""

_DERIVED: Final = ("num_batches_tracked", "relative_position_index", "attn_mask")
"""Ends of buffers that a network counts or computes by itself."""

VISSL_LINEAR_HEAD: Final = "heads.0.clf.0."
"""VISSL's head `["mlp", {"dims": [D, K]}]`: one linear layer. Source: vissl/models/heads/mlp.py."""


@dataclass(frozen=True, slots=True)
class KeyMap:
    """Which key of a file feeds which key of a model."""

    sources: dict[str, str]
    """File's key by model's key."""
    strangers: dict[str, str]
    """File's key by the name it was brought to, which the model does not have."""
    collisions: tuple[tuple[str, str, str], ...]
    """Two keys of the file that both became the third, which is the model's."""
    notes: tuple[str, ...]
    """What a user should know about the names."""


@dataclass(frozen=True, slots=True)
class PrefixSuggestion:
    """Settings that would make more keys match."""

    remove_prefix: str
    append_prefix: str
    num_matches: int
    """Tensors of the model whose key and shape would be found."""

    def __str__(self) -> str:
        """Return the settings as a run file has them."""
        settings = {"removePrefix": self.remove_prefix, "appendPrefix": self.append_prefix}
        return " and ".join(f"{name}: {value}" for name, value in settings.items() if value)


def map_keys(
    file_keys: Collection[str],
    model_keys: Collection[str],
    *,
    remove_prefix: str = "",
    append_prefix: str = "",
    head: str = "",
) -> KeyMap:
    """Bring the keys of a file to those of a model.

    `remove_prefix` is cut, once, from each key that begins with it, and keys that do not are kept
    as they are; then `append_prefix` is put before every key. So does VISSL. Source:
    `replace_module_prefix` and `append_module_prefix` in vissl/utils/checkpoint.py. Differences:
    two keys that become one are reported where VISSL keeps the last, a prefix that no key has is
    noted, VISSL's single linear head feeds the model's head, and other spellings of the same
    network are known (`find_spelling`).
    """
    model_keys = frozenset(model_keys)
    named: dict[str, str] = {}  # by the file's key
    for file_key in file_keys:
        key = append_prefix + file_key.removeprefix(remove_prefix)
        if key not in model_keys:
            key = strip_wrappers(key)
        if head and key.startswith(VISSL_LINEAR_HEAD) and key not in model_keys:
            key = f"{head}.{key.removeprefix(VISSL_LINEAR_HEAD)}"
        named[file_key] = key
    spelling = find_spelling(named.values(), model_keys)
    sources: dict[str, str] = {}
    strangers: dict[str, str] = {}
    collisions: list[tuple[str, str, str]] = []
    for file_key, name in named.items():
        key = spelling.respell(name) if spelling and name not in model_keys else name
        if key not in model_keys:
            strangers[key] = file_key
        elif key in sources:
            collisions.append((sources[key], file_key, key))
        else:
            sources[key] = file_key
    notes = []
    if remove_prefix and not any(key.startswith(remove_prefix) for key in file_keys):
        notes.append(f"removePrefix {remove_prefix!r} has no effect: no key begins with it")
    if spelling and spelling.note:
        notes.append(f"read as {spelling.name}: {spelling.note}")
    return KeyMap(sources, strangers, tuple(collisions), tuple(notes))


def is_derived(key: str) -> bool:
    """Tell whether a tensor is counted or computed by the network itself, not learned."""
    return key.endswith(_DERIVED)


def holds_same_numbers(one: Shape, other: Shape) -> bool:
    """Tell whether two shapes differ in axes of length 1 only: the numbers and their order agree.

    ConvNeXt's layer scale is (C,) with its authors and (C, 1, 1) with torchvision.
    """
    return [size for size in one if size != 1] == [size for size in other if size != 1]


def strip_wrappers(key: str) -> str:
    """Take the words of DDP, torch.compile and VISSL's trunk off the front of a key."""
    return _WRAPPER_WORDS.sub("", key)


def is_skipped(model_key: str, skip_layers: Collection[str], head: str = "") -> bool:
    """Tell whether SKIP_LAYERS leaves out a tensor of the model.

    VISSL looks for each word anywhere in the model's key, not in the file's (source:
    `init_model_from_consolidated_weights`), and its keys have words in front that ours have not:
    a skipped word may name these too.
    """
    names = [f"trunk._feature_blocks.{model_key}", f"trunk.base_model._feature_blocks.{model_key}"]
    if head and model_key.startswith(f"{head}."):
        names = [model_key, VISSL_LINEAR_HEAD + model_key.removeprefix(f"{head}.")]
    return any(word in name for word in skip_layers for name in names)


def suggest_prefixes(
    file_shapes: Mapping[str, Shape], model_shapes: Mapping[str, Shape]
) -> PrefixSuggestion | None:
    """Return the removePrefix and appendPrefix that make most tensors match, by key and shape.

    None where no prefixes make more than half of the model's tensors match.
    """
    as_it_is = _suggest(file_shapes, model_shapes)
    if as_it_is:
        return as_it_is
    respelled = (
        _suggest({spelling.respell(key): shape for key, shape in file_shapes.items()}, model_shapes)
        for spelling in SPELLINGS
    )
    return max(filter(None, respelled), key=lambda found: found.num_matches, default=None)


def _suggest(
    file_shapes: Mapping[str, Shape], model_shapes: Mapping[str, Shape]
) -> PrefixSuggestion | None:
    endings: dict[str, list[tuple[str, Shape]]] = {}
    for key, shape in model_shapes.items():
        for prefix, ending in _split_everywhere(key):
            endings.setdefault(ending, []).append((prefix, shape))
    matches: Counter[tuple[str, str]] = Counter()
    for key, shape in file_shapes.items():
        for remove, ending in _split_everywhere(key):
            for append, model_shape in endings.get(ending, ()):
                if holds_same_numbers(shape, model_shape):
                    matches[remove, append] += 1
    if not matches:
        return None
    (remove, append), num_matches = min(
        matches.items(), key=lambda item: (-item[1], len(item[0][0]) + len(item[0][1]))
    )
    if 2 * num_matches <= len(model_shapes):
        return None
    return PrefixSuggestion(remove, append, num_matches)


def _split_everywhere(key: str) -> Iterator[tuple[str, str]]:
    """Yield ("", a.b), ("a.", b) for a.b."""
    yield "", key
    for dot in re.finditer(r"\.", key):
        yield key[: dot.end()], key[dot.end() :]
