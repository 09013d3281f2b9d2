"""A VISSL configuration as Hydra composes it: one file, its overlays, and overrides.

Nothing of Hydra or OmegaConf is run. What would need them to be (resolvers, which read the
environment; Python tags; sweeps) is refused in one line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from clusterfit.config.provenance import KeyPath, Node, Origin, build_node, format_path, merge
from clusterfit.config.reader import read_yaml
from clusterfit.config.scalars import NULL_REFUSED, resolve_plain
from clusterfit.errors import ConfigError, MissingInputError

_OVERRIDE: Final = re.compile(r"(?P<sign>\+{0,2}|~)(?P<key>[^=~+]+)(?:=(?P<value>.*))?", re.DOTALL)
_COMMAND_LINE: Final = Origin("command line")
_MANDATORY: Final = "???"
"""OmegaConf's mark of a value that the user must give."""

_ROOTS: Final = ("config", "engine_name", "VERSION", "node_id", "defaults", "hydra")
"""What stands at the top of a VISSL configuration."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a user gave, composed."""

    files: tuple[Path, ...]
    """The configuration and its overlays."""
    overrides: tuple[str, ...]
    tree: Node
    """Everything below `config`, without nulls."""
    nulls: dict[KeyPath, Origin] = field(default_factory=dict)
    """Keys below `config` that were given as nothing."""
    engine: str = ""
    """The engine that the file names: train, extract_features and so on."""


@dataclass(slots=True)
class _Composition:
    """Files and overrides laid over each other so far."""

    tree: Node
    nulls: dict[KeyPath, Origin]

    def lay_over(self, node: Node, nulls: dict[KeyPath, Origin]) -> None:
        self.tree = merge(self.tree, node)
        for path in list(self.nulls):
            if node.find(path) is not None:
                del self.nulls[path]
        for path, origin in nulls.items():
            self.tree = _without(self.tree, path)
            self.nulls[path] = origin


def compose(file: Path, overrides: Sequence[str]) -> Source:
    """Read a VISSL configuration and lay overlays and overrides over it, in their order.

    Args:
        file: A file of VISSL's configs/config, or the train_config.yaml that a training leaves.
        overrides: As VISSL's command line takes them: `config.A.B=value`, `+config.A.B=value`,
            `~config.A.B`, and `+config/some/folder=name` for an overlay.

    Raises:
        MissingInputError: a file is not there.
        ConfigError: something in it cannot be read, is refused, or names nothing.
    """
    node, nulls = _read(file)
    composition = _Composition(node, nulls)
    files = [file]
    for override in overrides:
        match = _OVERRIDE.fullmatch(override)
        if match is None or (match["value"] is None and match["sign"] != "~"):
            raise ConfigError(
                f"{override!r}: want KEY=VALUE as VISSL's command line has it, like "
                "config.CLUSTERFIT.NUM_CLUSTERS=4000"
            )
        if "/" in match["key"] or match["key"] == "config":
            overlay = _find_overlay(file, match["key"], match["value"] or "", override)
            files.append(overlay)
            composition.lay_over(*_read(overlay))
        else:
            _apply(composition, match, override)
    tree = _resolve(composition.tree)
    engine = tree.find(("engine_name",))
    config = tree.find(("config",))
    assert config is not None, "every file read has it, or is taken as its content"
    return Source(
        files=tuple(files),
        overrides=tuple(overrides),
        tree=config,
        nulls={path[1:]: origin for path, origin in composition.nulls.items() if len(path) > 1},
        engine=str(engine.plain()) if engine else "",
    )


def _read(file: Path) -> tuple[Node, dict[KeyPath, Origin]]:
    """Return a file's content with `config` at its top, and the places of its nulls."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MissingInputError(f"{file}: no such file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not UTF-8 text, so no YAML configuration") from None
    except OSError as error:
        raise MissingInputError(f"{file}: {error.strerror}") from None
    node, faults = read_yaml(text, str(file))
    nulls = {
        fault.path: fault.origin or Origin(str(file))
        for fault in faults
        if fault.message == NULL_REFUSED and all(isinstance(step, str) for step in fault.path)
    }
    refused = [str(fault) for fault in faults if fault.path not in nulls]
    if refused:
        raise ConfigError(*refused)
    if node is None or not isinstance(node.value, dict):
        raise ConfigError(f"{file}: no map of keys, so no VISSL configuration")
    if not any(root in node.value for root in _ROOTS[:2]):
        # The train_config.yaml that VISSL leaves beside its checkpoints begins below `config`.
        node = Node({"config": node}, Origin(str(file), 1))
        nulls = {("config", *path): origin for path, origin in nulls.items()}
    config = node.find(("config",))
    if config is None or not isinstance(config.value, dict):
        raise ConfigError(f"{file}: `config` holds no keys, so this is no VISSL configuration")
    defaults = node.find(("defaults",))
    if defaults is not None:
        raise ConfigError(
            f"defaults: Hydra would lay further files over this one; give them as VISSL's command "
            f"line does, +config/FOLDER=NAME, and leave the list out ({defaults.origin})"
        )
    return node, nulls


def _find_overlay(file: Path, group: str, name: str, override: str) -> Path:
    """Return the file that `+config/some/folder=name` means: it lies where the first one does."""
    if group == "config":
        raise ConfigError(
            f"{override}: the configuration itself is the first argument, as a path to its file"
        )
    relative = Path(group) / f"{name.removesuffix('.yaml')}.yaml"
    for root in file.resolve().parents:
        if (root / relative).is_file():
            return root / relative
    raise MissingInputError(
        f"{override}: no file {relative} in any folder around {file}; overlays are found where "
        "VISSL's configs/config is, with the first file in it"
    )


def _apply(composition: _Composition, match: re.Match[str], override: str) -> None:
    path: KeyPath = tuple(match["key"].split("."))
    if match["sign"] == "~":
        composition.tree = _without(composition.tree, path)
        composition.nulls.pop(path, None)
        return
    value = _parse_value(match["value"], override)
    parent = composition.tree.find(path[:-1])
    if parent is not None and isinstance(parent.value, list):
        raise ConfigError(
            f"{override}: Hydra cannot override an item of a list; give {format_path(path[:-1])} "
            "whole"
        )
    if value is None:
        composition.lay_over(Node({}, _COMMAND_LINE), {path: _COMMAND_LINE})
        return
    try:
        node = build_node(value, _COMMAND_LINE)
    except ValueError as error:
        raise ConfigError(f"{override}: {error}") from None
    for step in reversed(path):
        node = Node({str(step): node}, _COMMAND_LINE)
    composition.lay_over(node, {})


def _parse_value(text: str, override: str) -> Any:
    """Return what Hydra reads in the value of an override."""
    text = text.strip()
    if text.lower() in {"null", "true", "false"}:
        return {"null": None, "true": True, "false": False}[text.lower()]
    if text[:1] in {"[", "{", "'", '"'}:
        # Hydra needs no space after the colons of a map, YAML does.
        spaced = re.sub(r"(?<=[\w'\"]):(?=[^\s/])", ": ", text) if text[0] == "{" else text
        node, faults = read_yaml(spaced, override)
        if node is None or faults:
            raise ConfigError(*(f"{override}: {fault.message}" for fault in faults))
        return node.plain()
    value = resolve_plain(text) if re.match(r"[-+.0-9]", text) else text
    if isinstance(value, str) and re.fullmatch(r"[\w.-]+(,[\w.-]+)+", value):
        raise ConfigError(
            f"{override}: a sweep over several values; import one value at a time, or put a text "
            "with commas in quotes"
        )
    return value


def _without(node: Node, path: KeyPath) -> Node:
    """Return a tree without what stands at a path."""
    if not isinstance(node.value, dict) or path[0] not in node.value:
        return node
    children = dict(node.value)
    if len(path) == 1:
        del children[str(path[0])]
    else:
        children[str(path[0])] = _without(children[str(path[0])], path[1:])
    return Node(children, node.origin)


_INTERPOLATION: Final = re.compile(r"\$\{([^${}]*)\}")


def _resolve(tree: Node) -> Node:
    """Return a tree in which every `${...}` stands for what it names."""
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
