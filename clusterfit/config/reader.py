"""One YAML document as values with their lines, read as Helm reads it.

What Helm would read but nobody can mean is refused here: null (which would delete a default),
duplicate keys, tags, several documents, integers that Helm rounds. Faults inside the document are
collected, so that a user sees all of them at once; what is not YAML at all ends the reading.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NoReturn

import yaml

from clusterfit.config.provenance import (
    MAX_DEPTH,
    Fault,
    KeyPath,
    Node,
    Origin,
    check_key,
)
from clusterfit.config.scalars import NULL_REFUSED, check_scalar, resolve_plain
from clusterfit.errors import ConfigError

MAX_NODES: Final = 100_000
"""Aliases may repeat values; more than this many in all is a mistake or an attack."""

_FIXES: Final = {
    "character '\\t' that cannot start": "a tab; write spaces instead",
    "that cannot start any token": "a value begins with a character that YAML reserves; put quotes "
    "around it",
    "mapping values are not allowed": "a second `: ` in one line, or a key indented differently "
    "from its neighbours; put quotes around text that holds `: `",
    "could not find expected ':'": "a line without `: `, where a key and its value are wanted",
    "expected <block end>": "indented differently from the lines above it",
    "unexpected end of stream": "a quote that is never closed",
    "undefined tag handle": "a tag; leave it out",
}
"""The most telling part of PyYAML's words, and the user's words for it."""

_BYTE_ORDER_MARK: Final = "\ufeff"


def read_yaml(text: str, source: str) -> tuple[Node | None, list[Fault]]:
    """Return the document's value, None where it is empty, and all that is wrong inside it.

    Faulty values are left out of what is returned.

    Raises:
        ConfigError: the text is not one YAML document that Helm could read.
    """
    if (position := text.find(_BYTE_ORDER_MARK, 1)) > 0:
        # Helm's reader takes one that comes to lie at the front of its buffer for the text's first,
        # and from there on leaves out the first character of every line.
        raise ConfigError(
            "not YAML: a byte order mark, an invisible character, inside the text; delete it, or "
            f'write it as "\\ufeff" ({Origin(source, text.count(chr(10), 0, position) + 1)})'
        )
    reader = _Reader(text, source)
    try:
        return reader.read(), reader.faults
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_describe_syntax_error(error, source)) from error
    except ValueError as error:
        # PyYAML does not look whether the number in "\\U00110000" is a character's.
        raise ConfigError(f"not YAML: an escape that names no character ({source})") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"not YAML: a character that may not stand in a text file, {chr(error.character)!a} "
            f"({Origin(source, line)})"
        ) from error


class _Reader:
    """Builds nodes from the parser's events, which still know tags, anchors and lines."""

    def __init__(self, text: str, source: str) -> None:
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=yaml.SafeLoader)
        self._source = source
        self._anchors: dict[str, tuple[Node | None, int] | None] = {}
        self._num_nodes = 0
        self.faults: list[Fault] = []

    def read(self) -> Node | None:
        next(self._events)  # the stream's start
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return None
        assert isinstance(event, yaml.DocumentStartEvent)
        if event.version not in (None, (1, 1)):
            self._stop((), "%YAML: Helm reads YAML 1.1 only; leave the line out", event)
        event = next(self._events)
        is_empty = isinstance(event, yaml.ScalarEvent) and not event.value and event.implicit[0]
        root = None if is_empty else self._read_node(event, ())
        next(self._events)  # the document's end
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            self._stop((), "a second document begins; a run file is one, and Helm drops it", event)
        return root

    def _read_node(
        self, event: yaml.Event, path: KeyPath, origin: Origin | None = None
    ) -> Node | None:
        """Return the value that begins with `event`, or None where it is faulty.

        `origin` is its key's place, because the parser puts an empty value's at the next token.
        """
        if len(path) > MAX_DEPTH:
            self._stop(path[:3], f"nested deeper than {MAX_DEPTH} levels", event)
        if isinstance(event, yaml.AliasEvent):
            return self._read_alias(event, path)
        assert isinstance(
            event, yaml.ScalarEvent | yaml.SequenceStartEvent | yaml.MappingStartEvent
        )
        if event.tag is not None:
            self._refuse(path, f"got the tag {event.tag}; leave it out", event)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        num_nodes_before = self._num_nodes
        self._count_nodes(1, event)
        node: Node | None
        if isinstance(event, yaml.MappingStartEvent):
            node = self._read_mapping(event, path)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._read_sequence(event, path)
        else:
            node = self._read_scalar(event, path, origin or self._origin(event))
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, self._num_nodes - num_nodes_before)
        return node

    def _read_alias(self, event: yaml.AliasEvent, path: KeyPath) -> Node | None:
        if event.anchor not in self._anchors:
            self._stop(path, f"*{event.anchor} names no anchor above it", event)
        anchored = self._anchors[event.anchor]
        if anchored is None:
            self._stop(path, f"*{event.anchor} would contain itself", event)
        node, num_nodes = anchored
        self._count_nodes(num_nodes, event)
        return node

    def _read_scalar(self, event: yaml.ScalarEvent, path: KeyPath, origin: Origin) -> Node | None:
        value = resolve_plain(event.value) if event.implicit[0] else event.value
        try:
            if value is None:
                raise ValueError(NULL_REFUSED)
            return Node(check_scalar(value), origin)
        except ValueError as error:
            self.faults.append(Fault(path, str(error), origin))
            return None

    def _read_sequence(self, event: yaml.Event, path: KeyPath) -> Node | None:
        """Return a list, or None where an item is faulty: the others would move up."""
        origin = self._origin(event)
        items: list[Node | None] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._read_node(event, (*path, len(items))))
        children = [item for item in items if item is not None]
        return Node(children, origin) if len(children) == len(items) else None

    def _read_mapping(self, event: yaml.Event, path: KeyPath) -> Node:
        origin = self._origin(event)
        children: dict[str, Node] = {}
        lines: dict[str, int] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if _is_merge_key(event):
                self._read_merge(event, path, children, lines)
                continue
            key = self._read_key(event, path)
            key_origin = self._origin(event)
            if key in lines:
                fault = f"given twice, first in line {lines[key]}; keep one"
                self._refuse((*path, key), fault, event)
            lines[key] = key_origin.line
            child = self._read_node(next(self._events), (*path, key), key_origin)
            if child is not None:
                children[key] = Node(child.value, key_origin)
        return Node(children, origin)

    def _read_key(self, event: yaml.Event, path: KeyPath) -> str:
        """Return a mapping's key as text, as Helm turns `on` into "true" and 12 into "12"."""
        if not isinstance(event, yaml.ScalarEvent):
            self._stop(path, "a key must be text, not a list, a map or an alias", event)
        if event.tag is not None:
            self._stop(path, f"got a key with the tag {event.tag}; leave it out", event)
        key = resolve_plain(event.value) if event.implicit[0] else event.value
        if isinstance(key, bool):
            return "true" if key else "false"
        if key is None or isinstance(key, float) or (isinstance(key, int) and abs(key) >= 2**63):
            self._stop(path, f"a key must be text; put quotes around {event.value!r}", event)
        try:
            return check_key(str(key))
        except ValueError as error:
            self._stop(path, f"a key: {error}", event)

    def _read_merge(
        self, event: yaml.Event, path: KeyPath, children: dict[str, Node], lines: dict[str, int]
    ) -> None:
        """Take over the keys of `<<`; the first of several maps wins, and later keys override."""
        merged = self._read_node(next(self._events), (*path, "<<"))
        maps = merged.value if merged and isinstance(merged.value, list) else [merged]
        for source in reversed(maps):
            if source is None or not isinstance(source.value, dict):
                self._stop(path, "`<<` takes a map or a list of maps", event)
            for key, child in source.value.items():
                if key in lines:
                    # The YAML specification lets the explicit key win, Helm the merged one.
                    fault = "given, and again by a later `<<`; write `<<` before it"
                    self._refuse((*path, key), fault, event)
                children[key] = child

    def _count_nodes(self, number: int, event: yaml.Event) -> None:
        self._num_nodes += number
        if self._num_nodes > MAX_NODES:
            self._stop((), f"more than {MAX_NODES} values; do aliases repeat each other?", event)

    def _origin(self, event: yaml.Event) -> Origin:
        assert event.start_mark is not None
        return Origin(self._source, event.start_mark.line + 1)

    def _refuse(self, path: KeyPath, message: str, event: yaml.Event) -> None:
        self.faults.append(Fault(path, message, self._origin(event)))

    def _stop(self, path: KeyPath, message: str, event: yaml.Event) -> NoReturn:
        raise ConfigError(str(Fault(path, message, self._origin(event))))


def _is_merge_key(event: yaml.Event) -> bool:
    return isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]


def _describe_syntax_error(error: yaml.MarkedYAMLError, source: str) -> str:
    problem = error.problem or "it cannot be read"
    fault = next((fix for part, fix in _FIXES.items() if part in problem), problem)
    starts_earlier = "expected ':'" in problem or "end of stream" in problem
    mark = (error.context_mark if starts_earlier else None) or error.problem_mark
    line = 0 if mark is None else mark.line + 1
    return f"not YAML: {fault} ({Origin(source, line)})"
