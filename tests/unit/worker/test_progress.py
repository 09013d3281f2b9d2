"""What a worker says of how far it is, how fast, and when it will be done."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from clusterfit.logline import parse_line
from clusterfit.worker import log
from clusterfit.worker.log import Log, ProgressReporter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands at its `seconds`."""
    clock = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(log, "time", SimpleNamespace(monotonic=lambda: clock.seconds))
    return clock


def read_progress(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    """Return what was said since the last call: how far, how fast, and how long it will take."""
    lines = map(parse_line, capsys.readouterr().out.splitlines())
    wanted = ("done", "total", "rate", "eta_seconds")
    return [{key: line[key] for key in wanted} for line in lines if line is not None]


def test_the_rate_is_of_what_this_process_did(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker that goes on at 10 of 100, and has done 20 more 4 s later."""
    reporter = ProgressReporter(Log("extract", 0), 100, "images", done=10)
    clock.seconds += 4
    reporter.update(30)
    clock.seconds += 10
    reporter.update(100)
    assert read_progress(capsys) == [
        {"done": "10", "total": "100", "rate": "0", "eta_seconds": "-1"},
        {"done": "30", "total": "100", "rate": "5", "eta_seconds": "14"},
        {"done": "100", "total": "100", "rate": "6.429", "eta_seconds": "0"},
    ]


def test_a_line_is_written_each_second_and_after_a_minute_each_ten(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    reporter = ProgressReporter(Log("extract", 0), 1000, "images")
    for half_seconds in range(1, 200):
        clock.seconds = 1000 + half_seconds / 2
        reporter.update(half_seconds)
    told = [int(line["done"]) / 2 for line in read_progress(capsys)]
    assert told == [*range(60), 69, 79, 89, 99]
    reporter.update(1000)
    reporter.update(1000)
    assert [line["done"] for line in read_progress(capsys)] == ["1000"], "the end is told, once"
