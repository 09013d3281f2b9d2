"""From files and `--set` options to one validated run file that knows where each value is from.

Defaults lie below the files in their order, and `--set` above all of them. They merge as Helm
merges values: maps merge, lists are replaced.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

import clusterfit
from clusterfit.config.faults import explain_errors
from clusterfit.config.overrides import parse_override
from clusterfit.config.provenance import (
    DEFAULT,
    Fault,
    KeyPath,
    Node,
    Origin,
    build_node,
    merge,
)
from clusterfit.config.reader import read_yaml
from clusterfit.config.schema import tree_schema, walk_leaves
from clusterfit.config.showing import show_value
from clusterfit.config.tree import RunFile
from clusterfit.errors import ConfigError

STDIN: Final = Path("-")
"""Stands for the standard input where a file is wanted, as in Helm."""


@dataclass(frozen=True, slots=True)
class LoadedRunFile:
    """A run file, and what of it was given where."""

    run_file: RunFile
    given: Node
    """What the files and options say, merged, without defaults."""

    def origin(self, path: KeyPath) -> Origin:
        """Return where the value at `path` comes from; `default` where nobody gave it."""
        node = self.given.find(path)
        return DEFAULT if node is None else node.origin

    def origins(self) -> dict[tuple[str, ...], Origin]:
        """Return where each setting's value comes from, in the tree's order."""
        return {leaf.path: self.origin(leaf.path) for leaf in walk_leaves()}


def load_run_file(files: Sequence[Path], overrides: Sequence[str] = ()) -> LoadedRunFile:
    """Load and validate a run file.

    Args:
        files: YAML files, each laid over those before it; `-` is the standard input.
        overrides: `a.b=JSON` assignments, laid over the files.

    Raises:
        ConfigError: with one line for everything that is wrong.
    """
    given = Node({}, DEFAULT)
    faults: list[Fault] = []
    unreadable: list[str] = []
    for file in files:
        try:
            node, faults_of_file = _read_file(file)
        except ConfigError as error:
            unreadable += error.faults
        else:
            given = merge(given, node)
            faults += faults_of_file
    for override in overrides:
        try:
            given = merge(given, parse_override(override))
        except ConfigError as error:
            unreadable += error.faults
    if unreadable:
        raise ConfigError(*unreadable, *map(str, faults))
    _check_format_version(given)
    run_file, faults_of_values = _validate(given)
    # A list is left out whole where one of its items is faulty.
    explained = {fault.path for fault in faults} | {
        fault.path[:-1] for fault in faults if fault.path and isinstance(fault.path[-1], int)
    }
    faults += [fault for fault in faults_of_values if fault.path not in explained]
    if run_file is None or faults:
        raise ConfigError(*_order(faults, files))
    return LoadedRunFile(run_file, given)


def check_values(values: Mapping[str, Any]) -> RunFile:
    """Return a run file from JSON types under its own keys, which come from no file.

    Raises:
        ConfigError: with one line for everything that is wrong.
    """
    return check_node(build_node(values, DEFAULT))


def check_node(node: Node) -> RunFile:
    """Return a run file from values that know where they come from, as `check_values`."""
    run_file, faults = _validate(node)
    if run_file is None:
        raise ConfigError(*map(str, faults))
    return run_file


def _validate(given: Node) -> tuple[RunFile | None, list[Fault]]:
    try:
        return RunFile.model_validate_json(json.dumps(given.plain()), by_name=False), []
    except ValidationError as error:
        return None, explain_errors(error.errors(include_url=False), given)


def _read_file(file: Path) -> tuple[Node, list[Fault]]:
    name = "stdin" if file == STDIN else str(file)
    node, faults = read_yaml(_read_text(file, name), name)
    if node is None and not faults:
        raise ConfigError(f"{name}: empty, want a run file; `clusterfit init` writes one")
    if node is None:
        return Node({}, Origin(name, 1)), faults
    if not isinstance(node.value, dict):
        raise ConfigError(
            f"{name}: got {show_value(node.plain())}, want keys with values, like `name: my-run` "
            f"({node.origin})"
        )
    return node, faults


def _read_text(file: Path, name: str) -> str:
    try:
        content = sys.stdin.buffer.read() if file == STDIN else file.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{name}: no such file; `clusterfit init {name}` writes one") from None
    except IsADirectoryError:
        raise ConfigError(f"{name}: a directory, want a file") from None
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror}") from None
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}: not UTF-8; save it as UTF-8 ({Origin(name, line)})") from None


def _check_format_version(given: Node) -> None:
    """Stop before a newer format's keys are called unknown."""
    node = given.find(("formatVersion",))
    known = tree_schema()["properties"]["formatVersion"]["const"]
    if node is None or not isinstance(node.value, int) or node.value <= known:
        return
    raise ConfigError(
        f"formatVersion: got {node.value}, want {known}: this is clusterfit "
        f"{clusterfit.__version__}, which reads version {known}; use a newer one ({node.origin})"
    )


def _order(faults: list[Fault], files: Sequence[Path]) -> list[str]:
    """Return the faults as lines, in the order in which a user meets their places."""
    sources = [str(file) for file in files]

    def place(fault: Fault) -> tuple[int, int]:
        source, line = (fault.origin.source, fault.origin.line) if fault.origin else ("", 0)
        return sources.index(source) if source in sources else len(sources), line

    return [str(fault) for fault in sorted(faults, key=place)]
