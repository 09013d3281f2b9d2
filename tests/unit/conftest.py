"""What tests of several packages need."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusterfit.artifacts.layout import RunDirectory


@pytest.fixture
def run_directory(tmp_path: Path) -> RunDirectory:
    """Return an empty run directory."""
    directory = RunDirectory(tmp_path / "runs", "digits")
    directory.root.mkdir(parents=True)
    return directory
