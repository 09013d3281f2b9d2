"""The tree as schema: what pydantic refuses, Helm refuses too, and the other way round."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from clusterfit.config.schema import (
    Leaf,
    Schema,
    build_schema,
    build_values_schema,
    default_values,
    find_schema,
    is_section,
    tree_schema,
    walk_leaves,
)
from clusterfit.config.tree import RunFile

LEAVES = list(walk_leaves())
NOISE = ("title", "$ref", "$defs", "anyOf", "x-operational", "x-wanted", "patternProperties")


def _values() -> dict[str, Any]:
    return {"formatVersion": 1, "name": "rotnet", **copy.deepcopy(default_values())}


def _with(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    values = _values()
    section = values
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    return values


def _pydantic_accepts(values: dict[str, Any]) -> bool:
    try:
        RunFile.model_validate_json(json.dumps(values), by_name=False)
    except ValidationError as error:
        # The schema knows single values; rules across a section's keys are the template's to check.
        return all(
            fault["type"] == "value_error" and is_section(find_schema(fault["loc"]) or {})
            for fault in error.errors()
        )
    return True


def _schema_accepts(values: dict[str, Any]) -> bool:
    return jsonschema.Draft7Validator(build_values_schema()).is_valid(values)


WRONG_FOR_SOME = [
    True, 0, 1, -1, 2, 0.5, 1.5, 2**31, "", "a", "/a", "a\x00", "A b", "cpu", "none", "bf16",
    [], ["a"], ["extract"], [1, 2, 3], [1, 2, 3, 4], [0, 0, 0], {}, {"a": "b"}, [{}], [[1]],
]  # fmt: skip


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: ".".join(leaf.path))
def test_pydantic_and_helms_schema_refuse_the_same_values(leaf: Leaf) -> None:
    for value in WRONG_FOR_SOME:
        values = _with(leaf.path, value)
        assert _pydantic_accepts(values) == _schema_accepts(values), value


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: ".".join(leaf.path))
def test_a_value_overridden_with_null_is_refused_by_helms_schema(leaf: Leaf) -> None:
    values = _with(leaf.path, None)
    assert not _schema_accepts(values)
    section = values
    for key in leaf.path[:-1]:
        section = section[key]
    del section[leaf.path[-1]]  # what Helm makes of an override with null
    assert not _schema_accepts(values)


def test_defaults_fit_and_a_subcharts_global_is_allowed() -> None:
    assert _schema_accepts(_values())
    assert _schema_accepts({**_values(), "global": {"anything": 1}})
    assert not _schema_accepts({**_values(), "globals": {}})
    assert not _schema_accepts(_with(("cluster", "k"), 1))


def test_a_list_of_maps_needs_only_what_has_no_default() -> None:
    """Helm lays no defaults under the maps of a list, so the schema must not ask for them."""
    backbone = {"label": "a", "from": "run", "stage": "train"}
    assert _schema_accepts(_with(("evaluate", "backbones"), [backbone]))
    assert not _schema_accepts(_with(("evaluate", "backbones"), [{"label": "a"}]))
    assert not _schema_accepts(_with(("evaluate", "backbones"), [{**backbone, "path": None}]))


def test_a_users_file_may_leave_out_what_has_a_default() -> None:
    validator = jsonschema.Draft7Validator(build_schema())
    assert validator.is_valid({"formatVersion": 1, "name": "rotnet", "train": {"epochs": 3}})
    assert not validator.is_valid({"formatVersion": 1, "train": {"epochs": 3}})
    assert not validator.is_valid({"formatVersion": 1, "name": "rotnet", "train": {"epoch": 3}})


def _walk(schema: Schema) -> list[Schema]:
    children = list(schema.get("properties", {}).values())
    children += [schema[key] for key in ("items", "additionalProperties") if schema.get(key)]
    return [schema, *(found for child in children for found in _walk(child))]


@pytest.mark.parametrize("schema", [build_schema(), build_values_schema()], ids=["file", "values"])
def test_schemas_show_nothing_of_how_they_were_made(schema: Schema) -> None:
    jsonschema.Draft7Validator.check_schema(schema)
    for part in _walk(schema):
        assert not set(NOISE) & set(part)


def test_every_setting_is_documented() -> None:
    for part in _walk(tree_schema()):
        for key, child in part.get("properties", {}).items():
            described = is_section(child) or bool(child.get("description"))
            assert described, f"{key} has no docstring"
            assert child.get("description", "") == " ".join(child.get("description", "").split())


def test_leaves_are_what_the_dump_holds() -> None:
    def paths(values: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
        found = []
        for key, value in values.items():
            schema = find_schema((*path, key))
            assert schema is not None
            if is_section(schema):
                found += paths(value, (*path, key))
            else:
                found.append((*path, key))
        return found

    assert [leaf.path for leaf in LEAVES] == paths(_values())
    for leaf in LEAVES:
        if leaf.has_default:
            assert leaf.default == _at(default_values(), leaf.path)


def _at(values: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        values = values[key]
    return values


def test_the_markers_say_what_fingerprints_leave_out() -> None:
    def keys(values: dict[str, Any]) -> set[str]:
        return set(values)

    train = RunFile(format_version=1, name="x").train
    for leaf in LEAVES:
        if leaf.path[0] == "train":
            assert leaf.is_operational == (leaf.path[-1] not in keys(train.dump_results()))
