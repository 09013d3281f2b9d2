"""The first process of a pod never ends with a code that Python chose."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterfit.logline import parse_line
from clusterfit.worker.arguments import Assignment
from clusterfit.worker.entry import main as entry
from clusterfit.worker.entry.gang import Gang
from clusterfit.worker.entry.local_ranks import LocalRanks
from clusterfit.worker.log import Log

CONFIG = '{"formatVersion": 1, "name": "digits", "device": "cpu"}'


@pytest.fixture(autouse=True)
def _one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PET_NPROC_PER_NODE", "1")


@pytest.fixture(autouse=True)
def _keep_sigterm() -> Iterator[None]:
    previous = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, previous)


def call(monkeypatch: pytest.MonkeyPatch, config: Path, root: Path, *stages: str) -> int:
    arguments = [
        *(stages or ["cluster"]),
        f"--config={config}",
        f"--data-root={root}",
        f"--storage-root={root}",
    ]
    monkeypatch.setattr(sys, "argv", ["clusterfit.worker", *arguments])
    return entry.main()


def test_an_unforeseen_failure_is_worth_another_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The training operator gives up for good on 1, with which Python ends after a traceback."""
    config = tmp_path / "config.json"
    config.write_text(CONFIG)

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


def test_stages_run_in_order_until_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.json"
    config.write_text(CONFIG)
    codes = {"extract": 0, "cluster": 66, "train": 0}
    ran = []

    def run(assignment: Assignment, *_: object) -> int:
        ran.append(assignment.stage)
        return codes[assignment.stage]

    monkeypatch.setattr(entry, "_run_stage", run)
    assert call(monkeypatch, config, tmp_path, *codes) == 66
    assert ran == ["extract", "cluster"]
    told = [parse_line(line) for line in capsys.readouterr().out.splitlines()]
    begun = [fields["stage"] for fields in told if fields and fields["msg"] == "started"]
    assert begun == ["extract", "cluster"], "each says so, and whoever shows them relies on it"


def test_nodes_run_one_stage_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.json"
    config.write_text(CONFIG)
    place = {"NNODES": "2", "MASTER_ADDR": "node-0", "MASTER_PORT": "1", "RDZV_ID": "x"}
    for name, value in place.items():
        monkeypatch.setenv(f"PET_{name}", value)
    assert call(monkeypatch, config, tmp_path, "extract", "cluster") == 64
    assert "got the stages extract, cluster: with PET_NNODES > 1" in capsys.readouterr().out


@pytest.mark.parametrize("is_failure", [False, True])
def test_a_broken_gang_is_forgiven_where_no_node_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_failure: bool
) -> None:
    """Else a node that fails each time would end every attempt as if it had been lost."""
    config = tmp_path / "config.json"
    config.write_text(CONFIG)

    def break_gang(_assignment: Assignment, _ranks: LocalRanks, gang: Gang, _log: Log) -> int:
        gang._lost, gang.is_broken_by_failure = "node 1 came back", is_failure
        return 0

    monkeypatch.setenv("PET_RDZV_ID", "x")
    monkeypatch.setattr(entry, "is_stage_finished", lambda *_: False)
    monkeypatch.setattr(entry, "_run_ranks", break_gang)
    monkeypatch.setattr(LocalRanks, "warm_up", lambda *_: None)
    codes = [call(monkeypatch, config, tmp_path) for _ in range(4)]
    assert codes == [143, 143, 143, 70 if is_failure else 143]
