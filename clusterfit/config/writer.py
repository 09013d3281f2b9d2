"""Values as YAML that every reader understands alike, with comments above keys or beside values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from clusterfit.config.provenance import KeyPath
from clusterfit.config.scalars import format_scalar

_COMMENT_COLUMN: Final = 44


def _no_lines(_path: KeyPath) -> Sequence[str]:
    return ()


def _no_text(_path: KeyPath) -> str:
    return ""


def format_yaml(
    values: Mapping[str, Any],
    *,
    above: Callable[[KeyPath], Sequence[str]] = _no_lines,
    beside: Callable[[KeyPath], str] = _no_text,
) -> str:
    """Return a map of JSON types as YAML.

    Args:
        values: The map.
        above: Gives the lines of the comment above a key; an empty line stays empty.
        beside: Gives the comment to the right of a value, or nothing.
    """
    return "".join(f"{line}\n" for line in _format_map(values, (), "", above, beside))


def _format_map(
    values: Mapping[str, Any],
    path: KeyPath,
    indent: str,
    above: Callable[[KeyPath], Sequence[str]],
    beside: Callable[[KeyPath], str],
) -> Iterator[str]:
    for key, value in values.items():
        child = (*path, key)
        for comment in above(child):
            yield f"{indent}# {comment}" if comment else ""
        head = f"{indent}{format_scalar(key)}:"
        if isinstance(value, Mapping) and value:
            yield head
            yield from _format_map(value, child, indent + "  ", above, beside)
        elif _holds_maps(value):
            yield _with_comment(head, beside(child))
            for position, item in enumerate(value):
                lines = list(
                    _format_map(item, (*child, position), indent + "    ", _no_lines, beside)
                )
                lines[0] = f"{indent}  - {lines[0].lstrip()}"
                yield from lines
        else:
            yield _with_comment(f"{head} {_format_inline(value)}", beside(child))


def _holds_maps(value: Any) -> bool:
    """Return whether a value is a list of maps, each with a key; other lists fit on a line."""
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(item, Mapping) and item for item in value)
    )


def _format_inline(value: Any) -> str:
    if isinstance(value, Mapping):
        pairs = (f"{format_scalar(key)}: {_format_inline(item)}" for key, item in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_format_inline, value))}]"
    return format_scalar(value)


def _with_comment(line: str, comment: str) -> str:
    return f"{line:<{_COMMENT_COLUMN}} # {comment}" if comment else line
