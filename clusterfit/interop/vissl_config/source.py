"""A VISSL configuration as Hydra composes it: one file, its overlays, and overrides.

Nothing of Hydra or OmegaConf is run. What would need them to be (resolvers, which read the
environment; Python tags; sweeps) is refused in one line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from clusterfit.config.provenance import KeyPath, Node, Origin, build_node, format_path, merge
from clusterfit.config.reader import read_yaml
from clusterfit.config.scalars import NULL_REFUSED
from clusterfit.errors import ConfigError, MissingInputError
from clusterfit.interop.vissl_config.interpolation import resolve
from clusterfit.interop.vissl_config.overrides import Override, parse_override

_COMMAND_LINE: Final = Origin("command line")

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
    outside: dict[str, Origin] = field(default_factory=dict)
    """Dotted keys that do not stand below `config`, and where they were given."""
    engine: str = ""
    """The engine that the file names: train, extract_features and so on."""

    def rank(self, origin: Origin) -> int:
        """Return a place's rank: what is given in one of a higher rank counts."""
        files = [str(file) for file in self.files]
        return files.index(origin.source) if origin.source in files else len(files)


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
    """Read a VISSL configuration and lay overlays over it, then overrides, each in their order.

    Args:
        file: A file of VISSL's configs/config, or the train_config.yaml that a training leaves.
        overrides: As VISSL's command line takes them: `config.A.B=value`, `+config.A.B=value`,
            `~config.A.B`, and `+config/some/folder=name` for an overlay. As with Hydra, an overlay
            may stand anywhere among them: it is laid before any value.

    Raises:
        MissingInputError: a file is not there.
        ConfigError: something in it cannot be read, is refused, or names nothing.
    """
    parsed = [parse_override(text) for text in overrides]
    composition = _Composition(*_read(file))
    overlays = [_find_overlay(file, override) for override in parsed if override.is_overlay]
    for overlay in overlays:
        composition.lay_over(*_read(overlay))
    for override in parsed:
        if not override.is_overlay:
            _apply(composition, override)
    tree = resolve(composition.tree)
    engine = tree.find(("engine_name",))
    config = tree.find(("config",))
    assert config is not None, "every file read has it, or is taken as its content"
    return Source(
        files=(file, *overlays),
        overrides=tuple(overrides),
        tree=config,
        nulls={path[1:]: origin for path, origin in composition.nulls.items() if len(path) > 1},
        outside=dict(_list_outside(tree)),
        engine=str(engine.plain()) if engine else "",
    )


def _read(file: Path) -> tuple[Node, dict[KeyPath, Origin]]:
    """Return a file's content with `config` at its top, and the places of its nulls."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MissingInputError(f"{file}: no such file{_suggest_path(file)}") from None
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


def _suggest_path(file: Path) -> str:
    """Say how a configuration is named here, where it was named as VISSL names it."""
    name = str(file).removeprefix("config=")
    path = Path(name if name.endswith(".yaml") else f"{name}.yaml")
    for found in (path, Path("configs/config") / path):
        if found != file and found.is_file():
            return f"; did you mean {found}?"
    if str(file).startswith("config="):
        return f"; give the configuration as a path to its file: configs/config/{path}"
    return ""


def _find_overlay(file: Path, override: Override) -> Path:
    """Return the file that `+config/some/folder=name` means: it lies where the first one does."""
    if "/" not in override.key:
        raise ConfigError(
            f"{override.text}: the configuration itself is the first argument, as a path to its "
            "file"
        )
    relative = Path(override.key) / f"{override.raw_value.removesuffix('.yaml')}.yaml"
    for root in file.resolve().parents:
        if (root / relative).is_file():
            return root / relative
    raise MissingInputError(
        f"{override.text}: no file {relative} in any folder around {file}; overlays are found "
        "where VISSL's configs/config is, with the first file in it"
    )


def _apply(composition: _Composition, override: Override) -> None:
    path = override.path
    if override.is_removal:
        if composition.tree.find(path) is None and composition.nulls.pop(path, None) is None:
            raise ConfigError(f"{override.text}: there is no such key to take away")
        composition.tree = _without(composition.tree, path)
        return
    value = override.parse_value()
    parent = composition.tree.find(path[:-1])
    if parent is not None and isinstance(parent.value, list):
        raise ConfigError(
            f"{override.text}: Hydra cannot override an item of a list; give "
            f"{format_path(path[:-1])} whole"
        )
    if value is None:
        composition.lay_over(Node({}, _COMMAND_LINE), {path: _COMMAND_LINE})
        return
    try:
        node = build_node(value, _COMMAND_LINE)
    except ValueError as error:
        raise ConfigError(f"{override.text}: {error}") from None
    for step in reversed(path):
        node = Node({str(step): node}, _COMMAND_LINE)
    composition.lay_over(node, {})


def _list_outside(tree: Node) -> Iterator[tuple[str, Origin]]:
    """Yield the dotted keys beside `config`."""

    def walk(node: Node, path: str) -> Iterator[tuple[str, Origin]]:
        if isinstance(node.value, dict) and node.value:
            for key, child in node.value.items():
                yield from walk(child, f"{path}.{key}")
        else:
            yield path, node.origin

    assert isinstance(tree.value, dict), "a configuration is a map"
    for key, child in tree.value.items():
        if key != "config":
            yield from walk(child, key)


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
