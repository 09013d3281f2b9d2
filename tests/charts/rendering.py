"""What the tests of the charts share."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from clusterfit.config.tree import RunFile
from clusterfit.launch.helm import Values
from clusterfit.launch.manifests import Manifest

Render = Callable[..., list[Manifest]]


def deep_merge(base: Values, changes: Values) -> Values:
    """Lay one mapping over another, as Helm does."""
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        merged[key] = (
            deep_merge(below, value)
            if isinstance(below, dict) and isinstance(value, dict)
            else value
        )
    return merged


def load(values: Values) -> RunFile:
    return RunFile.model_validate_json(json.dumps(values), by_name=False)


def find(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = (
        item for item in manifests if item["kind"] == kind and item["metadata"]["name"] == name
    )
    return found


def read_plan(manifests: list[Manifest], release: str = "release") -> dict[str, Any]:
    plan: dict[str, Any] = json.loads(
        find(manifests, "ConfigMap", f"{release}-config")["data"]["plan.json"]
    )
    return plan
