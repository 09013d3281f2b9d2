"""Values that know where they come from, and how later sources replace earlier ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from clusterfit.config.scalars import NULL_REFUSED, Scalar, check_scalar

MAX_DEPTH: Final = 50
"""Levels of nesting; the tree needs about ten."""

KeyPath = tuple[str | int, ...]
"""Keys and list positions that lead to a value: `("evaluate", "backbones", 0, "label")`."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was given: a line of a file, an option, or nowhere (`default`)."""

    source: str
    line: int = 0
    """Counted from 1; 0 where the source has no lines."""

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


DEFAULT = Origin("default")


@dataclass(frozen=True, slots=True)
class Node:
    """A JSON value with the origin of itself and of everything in it."""

    value: Scalar | list[Node] | dict[str, Node]
    origin: Origin

    def plain(self) -> Any:
        """Return the value as bool, int, float, str, list and dict."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def find(self, path: Sequence[str | int]) -> Node | None:
        """Return the value at `path`, or None where nothing was given."""
        node: Node | None = self
        for step in path:
            if isinstance(node, Node) and isinstance(node.value, dict):
                node = node.value.get(step) if isinstance(step, str) else None
            elif isinstance(node, Node) and isinstance(node.value, list):
                node = node.value[step] if isinstance(step, int) else None
            else:
                return None
        return node

    def nearest(self, path: Sequence[str | int]) -> Node:
        """Return the value at `path`, or the innermost given one around it."""
        for length in range(len(path), 0, -1):
            node = self.find(path[:length])
            if node is not None:
                return node
        return self


def merge(base: Node, over: Node) -> Node:
    """Return `base` with `over` on top as Helm merges values: maps merge, all else is replaced."""
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    merged = dict(base.value)
    for key, child in over.value.items():
        merged[key] = merge(merged[key], child) if key in merged else child
    # A section's place is where it first stands: that is where a missing key is missed.
    return Node(merged, over.origin if base.origin == DEFAULT else base.origin)


def check_key(key: str) -> str:
    """Return a map's key as it is.

    Raises:
        ValueError: it holds half of a surrogate pair, which is no character.
    """
    check_scalar(key)
    return key


def build_node(value: Any, origin: Origin, depth: int = 0) -> Node:
    """Return JSON types as a node, all of it from one origin.

    Raises:
        ValueError: it holds what a run file cannot: null, infinities, integers beyond 2^53.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    if value is None:
        raise ValueError(NULL_REFUSED)
    if isinstance(value, Mapping):
        children = {
            check_key(key): build_node(child, origin, depth + 1) for key, child in value.items()
        }
        return Node(children, origin)
    if isinstance(value, list | tuple):
        return Node([build_node(child, origin, depth + 1) for child in value], origin)
    return Node(check_scalar(value), origin)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, in one line: `path: got, want, fix (file:line)`."""

    path: KeyPath
    message: str
    origin: Origin | None

    def __str__(self) -> str:
        where = f"{format_path(self.path)}: " if self.path else ""
        return f"{where}{self.message} ({self.origin})" if self.origin else where + self.message


def format_path(path: KeyPath) -> str:
    """Return a path as a user writes it, in one line: `evaluate.backbones[0].label`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            key = step if step.isprintable() else json.dumps(step)
            text += f".{key}" if text else key
    return text
