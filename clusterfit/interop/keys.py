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

from clusterfit.interop.spelling import respell

Shape = tuple[int, ...]

_WRAPPER_WORDS: Final = re.compile(r"^(?:(?:module|_orig_mod|trunk|base_model|_feature_blocks)\.)+")
"""DDP, torch.compile, and the three of VISSL. No torchvision model's own keys begin so."""

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
    network are known (`respell`).
    """
    model_keys = frozenset(model_keys)
    sources: dict[str, str] = {}
    strangers: dict[str, str] = {}
    collisions: list[tuple[str, str, str]] = []
    for file_key in file_keys:
        key = append_prefix + file_key.removeprefix(remove_prefix)
        if key not in model_keys:
            key = strip_wrappers(key)
        if head and key.startswith(VISSL_LINEAR_HEAD) and key not in model_keys:
            key = f"{head}.{key.removeprefix(VISSL_LINEAR_HEAD)}"
        if key not in model_keys:
            key = respell(key)
        if key not in model_keys:
            strangers[key] = file_key
            continue
        if key in sources:
            collisions.append((sources[key], file_key, key))
        else:
            sources[key] = file_key
    notes = []
    if remove_prefix and not any(key.startswith(remove_prefix) for key in file_keys):
        notes.append(f"removePrefix {remove_prefix!r} has no effect: no key begins with it")
    return KeyMap(sources, strangers, tuple(collisions), tuple(notes))


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
    respelled = {respell(key): shape for key, shape in file_shapes.items()}
    return _suggest(file_shapes, model_shapes) or _suggest(respelled, model_shapes)


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
                if shape == model_shape:
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
