"""What tests of several packages need."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterfit.artifacts.layout import RunDirectory


@pytest.fixture
def run_directory(tmp_path: Path) -> RunDirectory:
    """Return an empty run directory."""
    directory = RunDirectory(tmp_path / "runs", "digits")
    directory.root.mkdir(parents=True)
    return directory


@pytest.fixture
def lose() -> Callable[[Path], None]:
    """Return what makes of a path one that the storage fails to read: an input/output error."""
    if sys.platform != "linux":
        pytest.skip("the file that fails to be read is Linux's")

    def lose(path: Path) -> None:
        path.unlink()
        path.symlink_to("/proc/self/mem")  # nothing is mapped where it begins

    return lose
