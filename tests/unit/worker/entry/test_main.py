"""The first process of a pod never ends with a code that Python chose."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterfit.worker.entry import main as entry


@pytest.fixture(autouse=True)
def _keep_sigterm() -> Iterator[None]:
    previous = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, previous)


def call(monkeypatch: pytest.MonkeyPatch, config: Path, root: Path) -> int:
    arguments = ["cluster", f"--config={config}", f"--data-root={root}", f"--storage-root={root}"]
    monkeypatch.setattr(sys, "argv", ["clusterfit.worker", *arguments])
    return entry.main()


def test_an_unforeseen_failure_is_worth_another_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The training operator gives up for good on 1, with which Python ends after a traceback."""
    config = tmp_path / "config.json"
    config.write_text('{"formatVersion": 1, "name": "digits", "device": "cpu"}')

    def fail(*_: object) -> int:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(entry, "_run_stage", fail)
    assert call(monkeypatch, config, tmp_path) == 203
    assert 'msg="OSError: [Errno 116] Stale file handle" exit_code=203' in capsys.readouterr().out


def test_a_config_that_is_not_there_or_not_a_run_is_64(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.json"
    assert call(monkeypatch, config, tmp_path) == 64
    config.write_text('{"formatVersion": 2, "name": "digits", "seed": -1}')
    assert call(monkeypatch, config, tmp_path) == 64
    told = capsys.readouterr().out
    assert "formatVersion" in told
    assert "seed" in told
