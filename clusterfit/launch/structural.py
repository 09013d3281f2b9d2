"""Check an object against the structural schema of a custom resource, as the API server would.

Structural schemas are a small part of OpenAPI: no $ref, no alternatives. A key that the schema does
not list is a fault here, where the API server silently drops it.
Source: https://kubernetes.io/docs/reference/kubernetes-api/extend-resources/custom-resource-definition-v1/
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

Schema = dict[str, Any]

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


@cache
def load_pytorchjob_schema() -> Schema:
    """Return the vendored schema of kubeflow.org/v1 PyTorchJob."""
    text = resources.files("clusterfit.launch").joinpath("schemas/pytorchjob.json").read_text()
    schema: Schema = json.loads(text)["schema"]
    # Kubernetes itself knows these, so a custom resource's schema says only `type: object`.
    schema["properties"]["metadata"] = {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
    }
    worker = _worker(schema)
    worker["template"]["properties"]["metadata"] = schema["properties"]["metadata"]
    return schema


@cache
def load_pod_template_schema() -> Schema:
    """Return the schema of a pod template, which a Job's is too."""
    template: Schema = _worker(load_pytorchjob_schema())["template"]
    return template


def find_faults(value: object, schema: Schema, path: str = "") -> Iterator[str]:
    """Yield one line for each place where a value departs from a schema."""
    if schema.get("x-kubernetes-int-or-string"):
        if not isinstance(value, int | str) or isinstance(value, bool):
            yield f"{path}: got {_show(value)}, want an integer or a string"
        elif "pattern" in schema and not re.search(schema["pattern"], str(value)):
            yield f"{path}: got {_show(value)}, want the form {schema['pattern']}"
        return
    kind = schema.get("type")
    if kind and (
        not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")
    ):
        yield f"{path}: got {_show(value)}, want {kind}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: got {_show(value)}, want one of {', '.join(map(str, schema['enum']))}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value < schema.get("minimum", value):
            yield f"{path}: got {value}, want >= {schema['minimum']}"
        if value > schema.get("maximum", value):
            yield f"{path}: got {value}, want <= {schema['maximum']}"
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from find_faults(item, schema.get("items", {}), f"{path}[{index}]")
    elif isinstance(value, dict):
        yield from _find_object_faults(value, schema, path)


def _find_object_faults(value: dict[str, object], schema: Schema, path: str) -> Iterator[str]:
    known: dict[str, Schema] = schema.get("properties", {})
    for key in schema.get("required", ()):
        if key not in value:
            yield f"{path}: {key} is missing"
    for key, item in value.items():
        below = f"{path}.{key}" if path else key
        if key in known:
            yield from find_faults(item, known[key], below)
        elif isinstance(schema.get("additionalProperties"), dict):
            yield from find_faults(item, schema["additionalProperties"], below)
        elif not schema.get("x-kubernetes-preserve-unknown-fields"):
            nearest = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            yield f"{below}: Kubernetes knows no such field{hint}"


def _worker(schema: Schema) -> dict[str, Schema]:
    spec = schema["properties"]["spec"]["properties"]
    replica: Schema = spec["pytorchReplicaSpecs"]["additionalProperties"]
    properties: dict[str, Schema] = replica["properties"]
    return properties


def _show(value: object) -> str:
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
