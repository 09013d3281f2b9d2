"""The local door passes on what was asked, what the worker says, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from clusterfit.config.tree import Algorithm
from clusterfit.launch.local import LocalRun, run_stages

CONFIG = Algorithm(format_version=1, name="digits", device="cpu")


@pytest.fixture
def use_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let a script of the test's own be what `python -m clusterfit.worker` starts."""
    script = tmp_path / "worker.py"
    starter = tmp_path / "python"
    starter.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    starter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(starter))
    return script


def local_run(tmp_path: Path, nproc_per_node: int = 0, overwrite: bool = False) -> LocalRun:
    return LocalRun(CONFIG, tmp_path / "data", tmp_path / "runs", nproc_per_node, overwrite)


TELL = """
import json, os, sys
config = next(a for a in sys.argv if a.startswith("--config=")).partition("=")[2]
environment = {key: value for key, value in os.environ.items() if key.startswith("PET_")}
print(json.dumps([sys.argv[1:], json.load(open(config)), environment, sys.stdin.read()]))
"""


def test_the_worker_is_told_everything_and_inherits_no_place_in_another_gang(
    tmp_path: Path, use_worker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_worker.write_text(TELL)
    monkeypatch.setenv("PET_NNODES", "9")
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []
    run = LocalRun(CONFIG, Path("data"), Path("runs"), 3, overwrite=False)
    assert run_stages(run, ["extract", "cluster"], lines.append) == 0
    [told] = lines
    arguments, config, environment, stdin = json.loads(told)
    assert arguments[:5] == ["-P", "-m", "clusterfit.worker", "extract", "cluster"]
    assert f"--data-root={tmp_path / 'data'}" in arguments
    assert f"--storage-root={tmp_path / 'runs'}" in arguments
    assert f"--stop-with-parent={os.getpid()}" in arguments
    assert not any(argument.startswith("--overwrite") for argument in arguments)
    assert config == CONFIG.dump()
    assert environment.pop("PET_RDZV_ID")
    assert environment == {"PET_NPROC_PER_NODE": "3"}
    assert stdin == ""


def test_each_call_is_a_submission_of_its_own_and_may_overwrite_once(
    tmp_path: Path, use_worker: Path
) -> None:
    use_worker.write_text(TELL)
    submissions = set()
    for _ in range(2):
        lines: list[str] = []
        assert run_stages(local_run(tmp_path, overwrite=True), ["train"], lines.append) == 0
        arguments, _, environment, _ = json.loads(lines[0])
        assert f"--overwrite={environment['PET_RDZV_ID']}" in arguments
        submissions.add(environment["PET_RDZV_ID"])
    assert len(submissions) == 2


@pytest.mark.parametrize(("device", "expected"), [("cpu", "1"), ("cuda", "auto")])
def test_how_many_gpus_there_are_the_worker_finds_out(
    tmp_path: Path, use_worker: Path, device: Literal["cpu", "cuda"], expected: str
) -> None:
    use_worker.write_text(TELL)
    lines: list[str] = []
    config = Algorithm(format_version=1, name="digits", device=device)
    run_stages(replace(local_run(tmp_path), config=config), ["train"], lines.append)
    _, _, environment, _ = json.loads(lines[0])
    assert environment["PET_NPROC_PER_NODE"] == expected


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        ("sys.exit(0)", 0),
        ("sys.exit(65)", 65),
        ("os._exit(203)", 203),
        ("os.kill(os.getpid(), 9)", 137),
        ("os.kill(os.getpid(), 15)", 143),
    ],
)
def test_the_exit_code_is_the_workers(
    tmp_path: Path, use_worker: Path, ending: str, expected: int
) -> None:
    use_worker.write_text(f"import os, sys\n{ending}\n")
    assert run_stages(local_run(tmp_path), ["train"], lambda _line: None) == expected


def test_every_line_is_shown_in_order_whatever_is_in_it(tmp_path: Path, use_worker: Path) -> None:
    use_worker.write_text(
        "import sys\n"
        "sys.stdout.write('first\\n'); sys.stdout.flush()\n"
        "sys.stderr.write('second, to stderr\\n'); sys.stderr.flush()\n"
        "sys.stdout.buffer.write(b'not UTF-8: \\xff\\n\\nwithout an end')\n"
    )
    lines: list[str] = []
    assert run_stages(local_run(tmp_path), ["train"], lines.append) == 0
    assert lines == ["first", "second, to stderr", "not UTF-8: \ufffd", "", "without an end"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_worker_as_sigterm_and_its_own_ending_counts(
    tmp_path: Path, use_worker: Path, number: signal.Signals
) -> None:
    use_worker.write_text(
        "import signal, sys\n"
        "def stop(*_): print('checkpoint written', flush=True); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "signal.signal(signal.SIGINT, lambda *_: sys.exit(1))\n"
        "print('ready', flush=True)\n"
        "signal.pause()\n"
    )
    before = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    lines: list[str] = []

    def show(line: str) -> None:
        lines.append(line)
        if line == "ready":
            os.kill(os.getpid(), number)

    assert run_stages(local_run(tmp_path), ["train"], show) == 143
    assert lines == ["ready", "checkpoint written"]
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == before
