"""The reference page of the run file: every setting, from the tree's own docstrings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from clusterfit.config.schema import (
    Leaf,
    Schema,
    find_map_values,
    find_schema,
    is_section,
    walk_leaves,
)
from clusterfit.config.section import OPERATIONAL_KEY
from clusterfit.config.wording import describe_wanted

_NO_DEFAULT: Final = "must be given"
_HEAD: Final = """\
<!-- Generated from clusterfit/config by `python -m clusterfit.config.generate`: do not edit. -->
# The run file

One YAML file describes a run. `clusterfit init` writes one to start from, `clusterfit config check`
says what is wrong with it, and `clusterfit config show --origin` shows every value and where it
comes from. Only `formatVersion` and `name` must be given.

The column *results* says what changing a setting does to a run that has already produced
something: `new` makes other results, so stages that are finished refuse to be mixed with it;
`same` only makes them differently, for example faster or with less memory.

Unquoted values mean what Helm takes them for: `y`, `yes` and `on` are true, `1e-6` is a number,
`12:30` and dates are text. An empty value (null) is refused; to keep a default, leave its key out.
Several files merge in their order: sections merge, lists are replaced.
"""


def build_reference() -> str:
    """Return docs/reference/run-file.md."""
    sections: dict[tuple[str, ...], list[Leaf]] = {}
    for leaf in walk_leaves():
        sections.setdefault(leaf.path[:-1], []).append(leaf)
    text = _HEAD
    for path, leaves in sections.items():
        text += "\n".join(["", *_format_section(path, leaves), ""])
    return text


def _format_section(path: tuple[str, ...], leaves: list[Leaf]) -> Iterator[str]:
    schema = find_schema(path)
    assert schema is not None
    yield f"## {'.'.join(path) if path else 'The top'}"
    yield ""
    if path and "description" in schema:
        yield schema["description"]
        yield ""
    yield "| key | takes | default | results | meaning |"
    yield "| --- | --- | --- | --- | --- |"
    for leaf in leaves:
        yield _format_row(leaf)
        items = leaf.schema.get("items") or find_map_values(leaf.schema)
        if items is not None and is_section(items) and not _repeats(items, leaves):
            yield from _format_item_rows(leaf, items)


def _repeats(items: Schema, leaves: list[Leaf]) -> bool:
    """Return whether the maps in a setting only override the settings that stand beside it."""
    return set(items["properties"]) <= {leaf.path[-1] for leaf in leaves}


def _format_row(leaf: Leaf) -> str:
    default = f"`{json.dumps(leaf.default)}`" if leaf.has_default else _NO_DEFAULT
    return _format_cells(leaf.path[-1], leaf.schema, default, leaf.is_operational)


def _format_item_rows(leaf: Leaf, items: Schema) -> Iterator[str]:
    """Yield a row for each key of the maps that a list, or a map of names, holds."""
    steps = "[]" if leaf.schema.get("type") == "array" else ".NAME"
    for key, schema in items["properties"].items():
        default = f"`{json.dumps(schema['default'])}`" if "default" in schema else _NO_DEFAULT
        is_operational = leaf.is_operational or schema.get(OPERATIONAL_KEY, False)
        yield _format_cells(f"{leaf.path[-1]}{steps}.{key}", schema, default, is_operational)


def _format_cells(key: str, schema: Schema, default: str, is_operational: bool) -> str:
    cells = (
        f"`{key}`",
        describe_wanted(schema),
        default,
        "same" if is_operational else "new",
        schema.get("description", ""),
    )
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"
