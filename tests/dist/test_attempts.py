"""What a stage ends with when a rank fails, and when attempt after attempt does."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from clusterfit.artifacts.files import read_json
from clusterfit.logline import parse_line
from clusterfit.worker.entry.attempts import plan_attempt, record_attempt

from .conftest import write_images
from .door import Bench, find_descendants

NO_GPU = "device: cuda is asked for, but local rank 0 sees 0 GPUs"


def test_a_permanent_code_of_one_rank_wins_and_each_log_holds_its_ranks_lines(
    bench: Bench, tmp_path: Path
) -> None:
    write_images(tmp_path / "train", 0, 40)
    for path in sorted((tmp_path / "train").rglob("*.png"))[:16]:  # the first part, no other
        path.write_text("not an image", encoding="utf-8")
    bench = bench.changed(
        {"data.val": "", "extract.weights": {"from": "random"}, "stages": ["extract"]},
        data_root=tmp_path,
    )
    ending = bench.execute("extract", 2)
    fault = ending.explain(65)
    assert "of 40 images cannot be read, more than data.maxUnreadableFraction (0.001)" in fault
    assert not list(bench.run.stage("extract").rglob("manifest.json"))
    told = [fields for fields in map(parse_line, ending.lines) if fields]
    speakers = {
        fields["rank"] for fields in told if fields["level"] == "error" and "rank" in fields
    }
    assert len(speakers) == 1
    logs = bench.run.root / "logs" / "extract" / "attempt-1"
    for rank in (0, 1):
        printed = [line for line in ending.lines if f" rank={rank} " in line]
        kept = (logs / f"rank-{rank:05d}.log").read_text(encoding="utf-8").splitlines()
        assert kept == printed


def test_three_attempts_without_progress_end_a_submission_and_a_stopped_one_does_not_count(
    bench: Bench,
) -> None:
    bench = bench.changed({"device": "cuda"})
    for _ in range(2):  # two tries that got nowhere
        last = plan_attempt(bench.run, "pretext", "first")
        record_attempt(bench.run, "pretext", last, lambda: None)

    stopped = bench.start_worker("pretext", 1, "first")
    assert stopped.wait_until(lambda: _read_record(bench)["number"] == 3)
    stopped.send(signal.SIGTERM)
    assert stopped.wait().code == 143, stopped.text
    assert _read_record(bench)["stalled"] == 2

    assert NO_GPU in bench.start_worker("pretext", 1, "first").wait().explain(203)
    assert _read_record(bench)["stalled"] == 3
    fault = bench.start_worker("pretext", 1, "first").wait().explain(70)
    assert "3 attempts in a row made no progress" in fault
    assert "logs/pretext/attempt-4" in fault
    assert _read_record(bench)["stalled"] == 0, "who submits once more has mended something"


def test_what_fails_before_there_are_ranks_was_an_attempt_too(bench: Bench, tmp_path: Path) -> None:
    """Nothing else would end a submission whose every pod dies of a broken library."""
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    worker = bench.start_worker("pretext", 1, "first", PYTHONPATH=str(hook))
    ending = worker.wait()
    assert ending.code == 203, ending.text
    assert "torch" in ending.text
    record = _read_record(bench)
    assert (record["number"], record["stalled"]) == (1, 1)
    assert not bench.run.owner_file.exists()


@pytest.mark.parametrize("victim", [pytest.param("nursery", marks=pytest.mark.campaign), "rank"])
def test_what_is_killed_is_told_from_what_fails(bench: Bench, victim: str) -> None:
    """It is what the kernel does where memory has run out, and status must be able to say so."""
    bench = bench.changed({"pretext.epochs": 2000})
    worker = bench.start_worker("pretext", 2, "first")
    worker.wait_for_line("msg=epoch")
    nursery, *ranks = find_descendants(worker.pid)
    os.kill(nursery if victim == "nursery" else ranks[-1], signal.SIGKILL)
    ending = worker.wait()
    assert ending.code == 137, ending.text
    assert "killed (SIGKILL), often for want of memory" in ending.text


def _read_record(bench: Bench) -> dict[str, Any]:
    record: dict[str, Any] = read_json(bench.run.attempts_file("pretext"))
    return record
