"""What a setting takes and what it got, in a user's words; one wording for faults and reference."""

from __future__ import annotations

from typing import Any, Final

from clusterfit.config.scalars import resolve_plain
from clusterfit.config.schema import Schema, find_map_values, is_section
from clusterfit.config.section import WANTED_KEY
from clusterfit.config.showing import show_value

_EMPTY: Final = '""'


def describe_wanted(schema: Schema) -> str:
    """Return what a place takes: `an integer >= 1`, `one of folder, filelist`."""
    if WANTED_KEY in schema:
        return str(schema[WANTED_KEY])
    if "anyOf" in schema:
        return " or ".join(describe_wanted(choice) for choice in schema["anyOf"])
    if "const" in schema:
        return show_value(schema["const"]).strip('"')
    if "enum" in schema:
        return f"one of {', '.join(str(choice) or _EMPTY for choice in schema['enum'])}"
    if is_section(schema):
        return "a section with its keys indented below it"
    match schema.get("type"):
        case "boolean":
            return "true or false"
        case "integer" | "number" as kind:
            return f"{'an integer' if kind == 'integer' else 'a number'}{_describe_bounds(schema)}"
        case "string":
            return f"text{_describe_text(schema)}"
        case "array":
            return _describe_list(schema)
        case "object":
            values = find_map_values(schema)
            if values is not None and is_section(values):
                return "a map of names to sections"
            return f"a map, each value {describe_wanted(values)}" if values else "a map"
    return "anything"


def describe_hint(schema: Schema, got: Any) -> str:
    """Return how to fix a value of the wrong type, with a leading `; `, or nothing."""
    kind = schema.get("type")
    if isinstance(got, str) and kind in ("integer", "number", "boolean"):
        value = resolve_plain(got)
        fits = isinstance(value, bool) == (kind == "boolean")
        return "; leave out the quotes" if value is not None and fits and value != got else ""
    if kind == "string" and isinstance(got, bool) and "enum" not in schema:
        return "; put quotes around it (y, yes, on, n, no and off are true and false without)"
    if kind == "string" and isinstance(got, int | float) and "enum" not in schema:
        return "; put quotes around it"
    if kind == "array" and not isinstance(got, list | dict):
        return f"; put brackets around it: [{show_value(got)}]"
    return ""


def _describe_bounds(schema: Schema) -> str:
    step = 1 if schema["type"] == "integer" else None
    bounds = []
    if "minimum" in schema:
        bounds.append(f">= {schema['minimum']}")
    if (above := schema.get("exclusiveMinimum")) is not None:
        bounds.append(f">= {above + step}" if step else f"> {above}")
    if "maximum" in schema:
        bounds.append(f"<= {schema['maximum']}")
    if (below := schema.get("exclusiveMaximum")) is not None:
        bounds.append(f"<= {below - step}" if step else f"< {below}")
    return f" {' and '.join(bounds)}" if bounds else ""


def _describe_text(schema: Schema) -> str:
    rules = []
    if "maxLength" in schema:
        rules.append(f"of {schema.get('minLength', 0)} to {schema['maxLength']} characters")
    elif schema.get("minLength"):
        rules.append("that is not empty")
    if "pattern" in schema:
        rules.append(f"like {schema['pattern']}")
    return f" {' and '.join(rules)}" if rules else ""


def _describe_list(schema: Schema) -> str:
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    if least == most:
        count = f"a list of {least}"
    elif least:
        count = f"a list of at least {least}"
    else:
        count = "a list"
    items = schema.get("items", {})
    if is_section(items):
        return f"{count}, each a map with {', '.join(items['properties'])}"
    return f"{count}, each {describe_wanted(items)}"
