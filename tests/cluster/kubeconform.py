"""kubeconform, with the schemas that this cluster's API server publishes.

Its own schemas come from the internet and know no PyTorchJob.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.cluster import programs
from tests.cluster.commands import Kubectl, run
from tests.cluster.paths import Cache

KIND = "x-kubernetes-group-version-kind"
POINTER = "#/definitions/"
LOCATION = "{{ .Group }}_{{ .ResourceAPIVersion }}_{{ .ResourceKind }}.json"


class Kubeconform:
    """Judges files of manifests as kubeconform does, without a cluster from then on."""

    def __init__(self, cache: Cache, kubectl: Kubectl, folder: Path) -> None:
        """Build the program if need be, and write the cluster's schemas to a folder."""
        programs.build(cache, programs.KUBECONFORM)
        self._program = programs.KUBECONFORM.path(cache)
        self._folder = folder
        definitions = json.loads(kubectl("get", "--raw=/openapi/v2"))["definitions"]
        for name, definition in definitions.items():
            for kind in definition.get(KIND, ()):
                # For the core group kubeconform puts the version in the group's place.
                group = kind["group"] or kind["version"]
                file = folder / f"{group}_{kind['version']}_{kind['kind'].lower()}.json"
                parts = {part: _close(definitions[part]) for part in _reach(definitions, name)}
                file.write_text(json.dumps({"$ref": POINTER + name, "definitions": parts}))

    def __call__(self, *files: Path) -> dict[str, Any]:
        """Check files and return kubeconform's summary: valid, invalid, errors, skipped.

        Raises:
            CommandError: An object is invalid, or of a kind that the cluster does not serve.
        """
        location = f"-schema-location={self._folder}/{LOCATION}"
        output = run([self._program, "-strict", "-summary", "-output=json", location, *files])
        summary: dict[str, Any] = json.loads(output)["summary"]
        return summary


def _reach(definitions: dict[str, Any], name: str) -> set[str]:
    """Return the names of all definitions that one is made of, itself included."""
    reached, ahead = set(), [name]
    while ahead:
        part = ahead.pop()
        if part not in reached:
            reached.add(part)
            text = json.dumps(definitions[part])
            ahead += re.findall(rf'"\$ref": "{re.escape(POINTER)}([^"]+)"', text)
    return reached


def _close(schema: Any) -> Any:
    """Turn OpenAPI 2 into JSON Schema that refuses what is not listed.

    The API server lists every field, and drops others in silence.
    """
    if isinstance(schema, list):
        return [_close(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "int-or-string" or schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    closed = {key: _close(value) for key, value in schema.items()}
    is_object = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if is_object and "additionalProperties" not in schema:
        closed["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    return closed
