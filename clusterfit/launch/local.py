"""The local door: a worker process on this machine that runs the stages one after the other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from clusterfit.config.stages import StageName
from clusterfit.config.tree import Algorithm


@dataclass(frozen=True, slots=True)
class LocalRun:
    """A run on this machine."""

    config: Algorithm
    data_root: Path
    storage_root: Path
    nproc_per_node: int
    """Processes of each stage; 0: one for each GPU, or one on the CPU."""
    overwrite: bool
    """Whether every stage of this call is done again, whatever of it is there."""


def run_stages(run: LocalRun, stages: Sequence[StageName], show: Callable[[str], None]) -> int:
    """Run stages until one fails, or to the end of the last, and return the exit code.

    Ctrl-C and SIGTERM are passed on as SIGTERM: the worker writes a checkpoint and ends with 143.
    If this process is killed, the worker dies with it.

    Args:
        run: what to run, and where.
        stages: which of its stages, in their order. One worker runs them all, because loading
            what a stage needs takes longer than many a stage.
        show: called with every line that the worker prints, without its end.
    """
    with tempfile.TemporaryDirectory(prefix="clusterfit-") as folder:
        config_path = Path(folder) / "config.json"
        config_path.write_text(json.dumps(run.config.dump()), encoding="utf-8")
        command = [
            # -P: nothing in the caller's folder stands in for a module of that name.
            *(sys.executable, "-P", "-m", "clusterfit.worker", *stages),
            f"--config={config_path}",
            f"--data-root={run.data_root.resolve()}",
            f"--storage-root={run.storage_root.resolve()}",
            f"--stop-with-parent={os.getpid()}",
        ]
        submission = uuid.uuid4().hex
        if run.overwrite:
            command.append(f"--overwrite={submission}")
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_build_environment(run, submission),
            start_new_session=True,  # Ctrl-C of the terminal reaches the worker through us alone
            encoding="utf-8",
            errors="replace",
        ) as worker:
            assert worker.stdout is not None
            with _passing_signals_on(worker):
                for line in worker.stdout:
                    show(line.rstrip("\n"))
            code = worker.wait()
    return 128 - code if code < 0 else code


def _build_environment(run: LocalRun, submission: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PET_")}
    automatic = "auto" if run.config.device == "cuda" else "1"
    nproc = str(run.nproc_per_node) if run.nproc_per_node else automatic
    return inherited | {
        "PET_NPROC_PER_NODE": nproc,
        "PET_RDZV_ID": submission,
        "PYTHONUNBUFFERED": "1",
    }


@contextmanager
def _passing_signals_on(worker: subprocess.Popen[Any]) -> Iterator[None]:
    def pass_on(_signum: int, _frame: FrameType | None) -> None:
        worker.terminate()

    previous = {
        number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
