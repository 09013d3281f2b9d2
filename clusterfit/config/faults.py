"""Pydantic's errors as one line each: `path: got, want, fix (file:line)`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from clusterfit.config.provenance import DEFAULT, Fault, KeyPath, Node, Origin, format_path
from clusterfit.config.schema import Schema, find_schema, is_section, tree_schema
from clusterfit.config.showing import show_value
from clusterfit.config.wording import describe_hint, describe_wanted

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_MAX_OWNERS: Final = 3
_KEY: Final = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:\.[A-Za-z][A-Za-z0-9]*)*")


def explain_errors(errors: list[ErrorDetails], given: Node) -> list[Fault]:
    """Return a fault for each thing that is wrong, with the line where it was given."""
    faults = []
    suggested: set[KeyPath] = set()
    for error in errors:
        if error["type"] == "extra_forbidden":
            message, meant = _explain_unknown_key(error["loc"])
            suggested.add(meant)
            faults.append(Fault(error["loc"], message, _line_of(error["loc"], given)))
    for error in errors:
        match error["type"]:
            case "extra_forbidden":
                pass
            case "missing" if error["loc"] in suggested:
                pass  # it is there under the unknown key that another fault explains
            case "too_short" if any(error["loc"] == other["loc"][:-1] for other in errors):
                pass  # pydantic counts only the items that are right
            case "missing":
                faults.append(_explain_missing(error["loc"], given))
            case "value_error" | "assertion_error":
                faults.append(_explain_rule(error, given))
            case _:
                faults.append(_explain_value(error, given))
    return faults


def _explain_value(error: ErrorDetails, given: Node) -> Fault:
    """Say what one value is and what its place takes."""
    path, got = error["loc"], error["input"]
    if path[-1:] == ("[key]",):  # pydantic's word for a map's key, as against its value
        path = path[:-1]
        schema = (find_schema(path[:-1]) or {}).get("propertyNames")
    else:
        schema = find_schema(path)
    wanted = describe_wanted(schema) if schema else error["msg"]
    hint = describe_hint(schema, got) if schema else ""
    if schema and isinstance(got, str):
        near = get_close_matches(got, [str(choice) for choice in schema.get("enum", [])], n=1)
        hint = f"; did you mean {near[0]}?" if near else hint
    return Fault(path, f"got {show_value(got)}, want {wanted}{hint}", _line_of(path, given))


def _explain_missing(path: KeyPath, given: Node) -> Fault:
    schema = find_schema(path)
    wanted = describe_wanted(schema) if schema else "a value"
    origin = given.nearest(path).origin
    if len(path) == 1:
        origin = Origin(origin.source)  # it is missing in the file, not in a line of it
    key = format_path(path)
    example = f": add `{key}: {schema['const']}`" if schema and "const" in schema else ""
    return Fault(path, f"missing, want {wanted}{example}", _unless_default(origin))


def _explain_rule(error: ErrorDetails, given: Node) -> Fault:
    """Take a validator's own words, which may begin with the key that they are about.

    The line is that of the first key named in them that was given.
    """
    path: KeyPath = error["loc"]
    message = str(error["ctx"]["error"])
    named = [(*path, *word.split(".")) for word in _KEY.findall(message)]
    culprit = next((key for key in named if given.find(key) is not None), path)
    subject, colon, rest = message.partition(": ")
    about = (*path, *subject.split("."))
    if colon and find_schema(about) is not None:
        path, message = about, rest
    if culprit == () and given.origin != DEFAULT:
        return Fault(path, message, Origin(given.origin.source))
    return Fault(path, message, _line_of(culprit, given))


def _explain_unknown_key(path: KeyPath) -> tuple[str, KeyPath]:
    """Return what to say about a key that its section does not have, and which one it may mean."""
    section, key = path[:-1], str(path[-1])
    schema = find_schema(section)
    siblings = list(schema["properties"]) if schema and is_section(schema) else []
    owners = _owners_of_keys(tree_schema(), ())
    sibling = _find_same_word(key, siblings)
    elsewhere = _find_same_word(key, list(owners))
    if sibling is None and elsewhere is None:
        sibling = next(iter(get_close_matches(key, siblings, n=1, cutoff=0.7)), None)
        elsewhere = next(iter(get_close_matches(key, owners, n=1, cutoff=0.8)), None)
    if sibling is not None:
        return f"unknown key, did you mean {sibling}?", (*section, sibling)
    if elsewhere is not None and len(owners[elsewhere]) <= _MAX_OWNERS:
        where = " or ".join(owners[elsewhere])
        return f"unknown key here, did you mean {where}?", ()
    return f"unknown key, want one of {', '.join(siblings)}", ()


def _find_same_word(key: str, known: list[str]) -> str | None:
    """Return the known key that differs at most in case, `_` and `-`."""
    word = _strip_case(key)
    return next((name for name in known if _strip_case(name) == word), None)


def _strip_case(key: str) -> str:
    return key.replace("_", "").replace("-", "").lower()


def _owners_of_keys(section: Schema, path: tuple[str, ...]) -> dict[str, list[str]]:
    """Return for every key of the tree the full paths at which it stands."""
    owners: dict[str, list[str]] = {}
    for key, full_path in _walk_keys(section, path):
        owners.setdefault(key, []).append(full_path)
    return owners


def _walk_keys(section: Schema, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for key, child in section["properties"].items():
        yield key, format_path((*path, key))
        if is_section(child):
            yield from _walk_keys(child, (*path, key))


def _line_of(path: KeyPath, given: Node) -> Origin | None:
    return _unless_default(given.nearest(path).origin)


def _unless_default(origin: Origin) -> Origin | None:
    return None if origin == DEFAULT else origin
