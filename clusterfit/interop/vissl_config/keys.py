"""The keys of a VISSL configuration under the names that they have at its last commit.

A key that is given twice, under an older and a newer name or in a file and on the command line,
counts as it is given last; one layer that gives it two values contradicts itself.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from clusterfit.config.provenance import Node, Origin
from clusterfit.config.showing import show_value
from clusterfit.errors import ConfigError
from clusterfit.interop.vissl_config.names import DEFAULTS, OLD_NAMES
from clusterfit.interop.vissl_config.source import Source

_ITEMIZED: Final = re.compile(r"DATA\.(TRAIN|TEST)\.TRANSFORMS")
"""Lists whose items are keys of their own: each has a verdict."""


@dataclass(frozen=True, slots=True)
class Key:
    """One value that was given."""

    written: str
    """As it was written: config.CLUSTERFIT.N_ITER."""
    value: Any
    """None where it was given as nothing."""
    origin: Origin


@dataclass(frozen=True, slots=True)
class Keys:
    """Everything below `config`."""

    given: dict[str, Key]
    """By today's name, without `config.`."""
    replaced: tuple[tuple[Key, Key], ...]
    """Keys that another name's replaces, each with the one that counts."""


def list_keys(source: Source) -> Keys:
    """Return a configuration's keys.

    Raises:
        ConfigError: one layer gives a key two values under two names.
    """
    given: dict[str, Key] = {}
    replaced: list[tuple[Key, Key]] = []
    for path, key in _walk_source(source):
        name = _name_now(path)
        before = given.get(name)
        if before is None:
            given[name] = key
            continue
        if None not in (before.value, key.value) and before.value != key.value:
            _check_layers(source, before, key)
        if key.value is None:
            winner, loser = before, key
        elif before.value is None or source.rank(key.origin) >= source.rank(before.origin):
            winner, loser = key, before
        else:
            winner, loser = before, key
        given[name] = winner
        replaced.append((loser, winner))
    return Keys(given, tuple(replaced))


def is_known(name: str) -> bool:
    """Tell whether a key is one of VISSL's that mean something here."""
    name = name.partition("[")[0]
    return name in DEFAULTS or any(key.startswith(f"{name}.") for key in DEFAULTS)


def suggest_key(name: str) -> str:
    """Say which key may have been meant."""
    near = difflib.get_close_matches(name, DEFAULTS, n=1, cutoff=0.8)
    return f"did you mean config.{near[0]}?" if near else "a misspelling?"


def _check_layers(source: Source, one: Key, other: Key) -> None:
    if source.rank(one.origin) == source.rank(other.origin):
        raise ConfigError(
            f"{one.written}: {show_value(one.value)} and {other.written}: "
            f"{show_value(other.value)} are two names of one setting; keep one ({other.origin})"
        )


def _walk_source(source: Source) -> Iterator[tuple[str, Key]]:
    """Yield every leaf below `config`, in the file's order, then those that are null."""

    def walk(node: Node, path: str) -> Iterator[tuple[str, Key]]:
        if isinstance(node.value, dict) and node.value:
            for key, child in node.value.items():
                yield from walk(child, f"{path}.{key}" if path else key)
        elif isinstance(node.value, list) and _ITEMIZED.fullmatch(path):
            for number, child in enumerate(node.value):
                item, name = child.plain(), f"{path}[{number}]"
                kind = f" ({item['name']})" if isinstance(item, dict) and "name" in item else ""
                yield name, Key(f"config.{name}{kind}", item, child.origin)
        else:
            yield path, Key(f"config.{path}", node.plain(), node.origin)

    yield from walk(source.tree, "")
    for steps, origin in source.nulls.items():
        path = ".".join(map(str, steps))
        yield path, Key(f"config.{path}", None, origin)


def _name_now(path: str) -> str:
    for old, new in OLD_NAMES.items():
        if path == old or path.startswith(f"{old}."):
            return new + path.removeprefix(old)
    return path
