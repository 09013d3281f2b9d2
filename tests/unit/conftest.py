"""What tests of several packages need."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
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


@dataclass
class Clock:
    """Stands in for `time`: who sleeps moves it on, and nobody waits."""

    now: float = 0.0
    pauses: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        """Return the seconds that were slept, and a little more each time that it is asked."""
        self.now += 1e-6
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which requests to an API server are tried again."""
    clock = Clock()
    monkeypatch.setattr("clusterfit.launch.patience.time", clock)
    return clock
