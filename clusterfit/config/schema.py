"""The run file's tree as JSON schema: for editors, for Helm, and for whoever walks the tree.

Everything is inlined and nothing of pydantic's bookkeeping is left, so that a reader finds what a
key takes where the key stands.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from clusterfit.config.section import OPERATIONAL_KEY, WANTED_KEY
from clusterfit.config.tree import RunFile

Schema = dict[str, Any]

_DRAFT: Final = "http://json-schema.org/draft-07/schema#"
"""The newest draft that every Helm 3 and 4 knows."""


@cache
def tree_schema() -> Schema:
    """Return the whole tree, with its markers. Shared: do not change it."""
    schema = RunFile.model_json_schema()
    return _inline(schema, schema.get("$defs", {}))


def build_schema() -> Schema:
    """Return the schema of a run file as a user writes it: what has a default may be left out."""
    return {"$schema": _DRAFT, **_without_markers(tree_schema())}


def build_values_schema() -> Schema:
    """Return the schema of the chart's values: the run file's, laid over all defaults.

    Every key down to the leaves is required, because Helm drops a key that is overridden with null
    and would otherwise go on without it. `global` is what Helm gives to a subchart.
    """
    schema = _require_all(_without_markers(tree_schema()))
    schema["properties"]["global"] = {"type": "object"}
    return {"$schema": _DRAFT, **schema}


def format_schema(schema: Schema) -> str:
    """Return a schema as the text of a file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


@cache
def default_values() -> dict[str, Any]:
    """Return every default in JSON types; the keys without one are left out. Do not change it."""
    values = RunFile(format_version=1, name="unnamed").dump()
    return {key: value for key, value in values.items() if key not in tree_schema()["required"]}


@dataclass(frozen=True, slots=True)
class Leaf:
    """One setting of the run file: what is below it, if anything, belongs to its value."""

    path: tuple[str, ...]
    schema: Schema
    is_operational: bool
    """Whether it changes how a stage runs, and never what it produces."""

    @property
    def has_default(self) -> bool:
        """Whether it may be left out."""
        return self.path[0] not in tree_schema()["required"]

    @property
    def default(self) -> Any:
        """The default in JSON types.

        Raises:
            KeyError: it has none.
        """
        value: Any = default_values()
        for key in self.path:
            value = value[key]
        return value


def walk_leaves() -> Iterator[Leaf]:
    """Yield every setting in the tree's order."""
    yield from _walk_section(tree_schema(), (), is_operational=False)


def is_section(schema: Schema) -> bool:
    """Return whether a schema is a section with keys of its own, not a value or a free map."""
    return "properties" in schema


def find_schema(path: tuple[str | int, ...]) -> Schema | None:
    """Return the schema of what stands at `path`, or None where the tree has no such place."""
    schema: Schema | None = tree_schema()
    for step in path:
        if schema is None:
            return None
        if isinstance(step, int):
            schema = schema.get("items")
        elif is_section(schema):
            schema = schema["properties"].get(step)
        else:
            schema = find_map_values(schema)
    return schema


def find_map_values(schema: Schema) -> Schema | None:
    """Return the schema of a free map's values, or None where a schema is no free map."""
    below = schema.get("additionalProperties")
    if isinstance(below, dict):
        return below
    return {} if below is True else None


def _walk_section(
    section: Schema, path: tuple[str, ...], *, is_operational: bool
) -> Iterator[Leaf]:
    for key, child in section["properties"].items():
        marked = is_operational or child.get(OPERATIONAL_KEY, False)
        if is_section(child):
            yield from _walk_section(child, (*path, key), is_operational=marked)
        else:
            yield Leaf((*path, key), child, marked)


def _inline(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """Return `schema` with each `$ref` replaced by what it means, and without titles."""
    if "$ref" in schema:
        target = definitions[schema["$ref"].removeprefix("#/$defs/")]
        # A section's defaults are its leaves'.
        schema = target | {key: schema[key] for key in schema if key not in ("$ref", "default")}
    inlined: Schema = {}
    for key, value in schema.items():
        if key in ("$defs", "title"):
            continue
        if key in ("properties", "patternProperties"):
            inlined[key] = {name: _inline(child, definitions) for name, child in value.items()}
        elif key == "description":
            inlined[key] = " ".join(value.split())
        elif isinstance(value, dict) and key != "default":
            inlined[key] = _inline(value, definitions)
        elif key in ("anyOf", "oneOf", "allOf"):
            inlined[key] = [_inline(child, definitions) for child in value]
        else:
            inlined[key] = value
    return _close_map(inlined)


def _close_map(schema: Schema) -> Schema:
    """Return a map's schema so that a key of another form is refused.

    Pydantic writes the form of keys as `patternProperties`, which lets any other key pass.
    """
    if "patternProperties" not in schema:
        return schema
    closed = {key: value for key, value in schema.items() if key != "patternProperties"}
    ((pattern, value),) = schema["patternProperties"].items()
    names = {"type": "string", "pattern": pattern, **closed.get("propertyNames", {})}
    return closed | {"additionalProperties": value, "propertyNames": names}


def _without_markers(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_markers(child)
            for key, child in value.items()
            if key not in (OPERATIONAL_KEY, WANTED_KEY)
        }
    return [_without_markers(child) for child in value] if isinstance(value, list) else value


def _require_all(schema: Schema) -> Schema:
    """Require every key of a section and of the sections in it, and leave out the defaults.

    Maps and sections inside lists stay as they are: Helm lays nothing under those.
    """
    if not is_section(schema):
        return {key: value for key, value in schema.items() if key != "default"}
    properties = {key: _require_all(child) for key, child in schema["properties"].items()}
    return schema | {"properties": properties, "required": list(properties)}
