"""`${...}` in a VISSL configuration: what it names stands in its place.

OmegaConf's resolvers (`${oc.env:HOME}`), which ask the machine, are not run but refused.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from clusterfit.config.provenance import KeyPath, Node, format_path
from clusterfit.errors import ConfigError

_INTERPOLATION: Final = re.compile(r"\$\{([^${}]*)\}")
_MANDATORY: Final = "???"
"""OmegaConf's mark of a value that the user must give."""


def resolve(tree: Node) -> Node:
    """Return a tree in which every `${...}` stands for what it names.

    Raises:
        ConfigError: it names nothing, itself, or a resolver; or a value that must be given is not.
    """
    return _resolve_below(tree, tree, (), ())


def _resolve_below(root: Node, node: Node, path: KeyPath, seen: tuple[KeyPath, ...]) -> Node:
    if isinstance(node.value, dict):
        children = {
            key: _resolve_below(root, child, (*path, key), seen)
            for key, child in node.value.items()
        }
        return Node(children, node.origin)
    if isinstance(node.value, list):
        items = [
            _resolve_below(root, child, (*path, number), seen)
            for number, child in enumerate(node.value)
        ]
        return Node(items, node.origin)
    if node.value == _MANDATORY:
        raise ConfigError(
            f"{format_path(path)}: ??? marks a value that must be given; add "
            f"{format_path(path)}=VALUE ({node.origin})"
        )
    if not isinstance(node.value, str) or "${" not in node.value:
        return node
    if path in seen:
        raise ConfigError(f"{format_path(path)}: {node.value} leads back to itself ({node.origin})")
    seen = (*seen, path)
    whole = _INTERPOLATION.fullmatch(node.value)
    if whole:
        found = _look_up(root, whole[1], path, node, seen)
        return replace(found, origin=node.origin)
    if not _INTERPOLATION.search(node.value):
        raise ConfigError(
            f"{format_path(path)}: got {node.value!r}, want a `${{...}}` that is closed and holds "
            f"no other ({node.origin})"
        )
    text = _INTERPOLATION.sub(
        lambda match: str(_look_up(root, match[1], path, node, seen).plain()), node.value
    )
    return Node(text, node.origin)


def _look_up(root: Node, name: str, path: KeyPath, node: Node, seen: tuple[KeyPath, ...]) -> Node:
    where = format_path(path)
    if ":" in name:
        raise ConfigError(
            f"{where}: ${{{name}}} asks the machine (a resolver of OmegaConf's) and is not "
            f"evaluated; give the value itself: {where}=VALUE ({node.origin})"
        )
    num_dots = len(name) - len(name.lstrip("."))
    base: KeyPath = path[: len(path) - num_dots] if num_dots else ()
    target: KeyPath = (*base, *(part for part in name.lstrip(".").split(".") if part))
    found = root.find(target) if target else None
    if found is None:
        raise ConfigError(
            f"{where}: ${{{name}}} names nothing that the file or an override gives; give the "
            f"value itself: {where}=VALUE ({node.origin})"
        )
    return _resolve_below(root, found, target, seen)
