"""The real Helm, to hold our reading of values against."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ReadWithHelm = Callable[[str], Any]
WriteFile = Callable[..., Path]


@pytest.fixture(scope="session")
def read_with_helm(tmp_path_factory: pytest.TempPathFactory) -> ReadWithHelm:
    """Return what a template sees of a values file: parsed by Helm, printed by its toJson."""
    helm = pytest.importorskip(
        "helm_python", reason="helm-python-sdk has no wheel for this platform"
    )
    chart = tmp_path_factory.mktemp("charts") / "echo"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: echo\nversion: 0.1.0\n")
    (chart / "templates" / "values.yaml").write_text("{{ toJson .Values }}")

    def read(text: str) -> Any:
        with helm.Chart.load(chart) as loaded:
            rendered = loaded.render(helm.values_from_yaml(text))
        return json.loads(rendered["echo/templates/values.yaml"], parse_int=_read_integer)

    return read


def _read_integer(digits: str) -> int | float:
    """Return a number that Go wrote without a point: beyond 2^53 it was a float to Go."""
    return int(digits) if abs(int(digits)) <= 2**53 else float(digits)


@pytest.fixture
def write_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteFile:
    """Return a function that writes a file and gives its name in the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes, name: str = "run.yaml") -> Path:
        Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return Path(name)

    return write
