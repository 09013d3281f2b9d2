"""Write clusterfit/launch/schemas/pytorchjob.json from the training operator's Go module.

Run: go mod download github.com/kubeflow/training-operator@v1.9.4
     .venv/bin/python scripts/vendor_pytorchjob_schema.py

The schema is kept as it is but for its descriptions, which are four fifths of it.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

MODULE = "github.com/kubeflow/training-operator"
VERSION = "v1.9.4"
CRD = Path("manifests/base/crds/kubeflow.org_pytorchjobs.yaml")
TARGET = Path(__file__).parents[1] / "clusterfit/launch/schemas/pytorchjob.json"


def without_descriptions(node: Any) -> Any:
    """Drop `description` where it documents a schema; a property of that name stays."""
    if isinstance(node, list):
        return [without_descriptions(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: (
            {name: without_descriptions(schema) for name, schema in value.items()}
            if key == "properties"
            else without_descriptions(value)
        )
        for key, value in node.items()
        if not (key == "description" and isinstance(value, str))
    }


def main() -> None:
    """Read the CRD and write the schema of its served version."""
    downloaded = subprocess.run(
        ["go", "mod", "download", "-json", f"{MODULE}@{VERSION}"],  # noqa: S607
        check=True,
        capture_output=True,
        text=True,
    )
    source = Path(json.loads(downloaded.stdout)["Dir"]) / CRD
    definition = yaml.safe_load(source.read_text())
    version = next(item for item in definition["spec"]["versions"] if item["served"])
    vendored = {
        "origin": f"{MODULE}@{VERSION}/{CRD}",
        "licence": "Apache-2.0",
        "changes": "descriptions removed",
        "schema": without_descriptions(version["schema"]["openAPIV3Schema"]),
    }
    TARGET.write_text(json.dumps(vendored, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
