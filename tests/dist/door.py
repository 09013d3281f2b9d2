"""The real entry points as subprocesses, and what is asked of them again and again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.logline import parse_line

DEADLINE_SECONDS = 240.0
"""Of any one process: many times what it needs on a busy machine."""

_POLL_SECONDS = 0.02

Changes = Mapping[str, Any]


@dataclass(frozen=True)
class Ending:
    """How a process ended and all that it said."""

    code: int
    lines: list[str]

    @property
    def text(self) -> str:
        """Everything, for a failed assertion."""
        return "\n".join(self.lines)

    def faults(self) -> list[str]:
        """Return each different explanation of the failure.

        That is what is told as an error, but for the entry's closing remark about its attempt.
        """
        told = [
            fields["msg"]
            for fields in map(parse_line, self.lines)
            if fields is not None and fields["level"] == "error"
        ]
        told += [line for line in self.lines if line.startswith("error: ")]
        return list(dict.fromkeys(line for line in told if not line.startswith("attempt ")))

    def explain(self, code: int) -> str:
        """Return the one line that explains a failure with this code."""
        assert self.code == code, self.text
        assert "Traceback" not in self.text, self.text
        faults = self.faults()
        assert len(faults) == 1, self.text
        return faults[0]


class Process:
    """A command that runs while the test looks on; every wait has a deadline."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def is_running(self) -> bool:
        return self._popen.poll() is None

    def wait(self, seconds: float = DEADLINE_SECONDS) -> Ending:
        """Return how it ended; one that does not end is killed, and the test fails."""
        try:
            code = self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {seconds:.0f} s:\n{self.text}") from None
        self._reader.join(DEADLINE_SECONDS)
        assert not self._reader.is_alive(), f"somebody keeps its output open:\n{self.text}"
        assert self._popen.stdout is not None
        self._popen.stdout.close()
        return Ending(128 - code if code < 0 else code, self.lines)

    def ends_within(self, seconds: float) -> bool:
        """Tell whether it ends by itself within some time."""
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def wait_until(self, condition: Callable[[], bool]) -> bool:
        """Wait until a condition holds or the process has ended; tell whether it holds."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            if not self.is_running:
                return condition()
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"waited in vain:\n{self.text}")
            time.sleep(_POLL_SECONDS)
        return True

    def wait_for_line(self, word: str) -> None:
        """Wait until a line holds a word; fail where the process ends without."""
        with self._changed:
            found = self._changed.wait_for(
                lambda: any(word in line for line in self.lines) or not self._reader.is_alive(),
                DEADLINE_SECONDS,
            )
        assert found, f"no {word!r} in time:\n{self.text}"
        assert any(word in line for line in self.lines), self.text

    def send(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def kill(self) -> None:
        """End it and all that it has started."""
        for pid in [self.pid, *find_descendants(self.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()


@dataclass(frozen=True)
class Bench:
    """A data root, a storage root and a run file: `clusterfit run` and `artifacts` over them."""

    data_root: Path
    storage_root: Path
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def run(self) -> RunDirectory:
        return RunDirectory(self.storage_root, self.config["name"])

    def changed(self, changes: Changes, **roots: Path) -> Bench:
        """Return a bench whose run file has these values at these dotted keys."""
        config = json.loads(json.dumps(self.config))
        for key, value in changes.items():
            *sections, last = key.split(".")
            section = config
            for name in sections:
                section = section.setdefault(name, {})
            section[last] = value
        return Bench(
            roots.get("data_root", self.data_root),
            roots.get("storage_root", self.storage_root),
            config,
        )

    def start(self, step: str, nproc: int = 1, *options: str, **environment: str) -> Process:
        """Start `clusterfit run`."""
        command = [
            *("run", step, "-f", str(self._write_run_file()), f"--nproc-per-node={nproc}"),
            *(f"--data-root={self.data_root}", f"--storage-root={self.storage_root}", *options),
        ]
        return Process([*CLUSTERFIT, *command], environment)

    def execute(self, step: str, nproc: int = 1, *options: str, **environment: str) -> Ending:
        """Run `clusterfit run` to its end."""
        return self.start(step, nproc, *options, **environment).wait()

    def succeed(self, step: str, nproc: int = 1, *options: str) -> Ending:
        """Run `clusterfit run` to its good end."""
        ending = self.execute(step, nproc, *options)
        assert ending.code == 0, ending.text
        return ending

    def start_worker(self, stage: str, nproc: int, submission: str, **environment: str) -> Process:
        """Start the worker's entry as a pod does."""
        path = self.storage_root / f"{self.config['name']}.{stage}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.config), encoding="utf-8")
        command = [
            *(sys.executable, "-P", "-m", "clusterfit.worker", stage, f"--config={path}"),
            *(f"--data-root={self.data_root}", f"--storage-root={self.storage_root}"),
        ]
        place = {"PET_NPROC_PER_NODE": str(nproc), "PET_RDZV_ID": submission}
        return Process(command, place | {"CUDA_VISIBLE_DEVICES": ""} | environment)

    def artifacts(self, command: str) -> Ending:
        """Run `clusterfit artifacts ls` or `verify` on the run."""
        arguments = ["artifacts", command, self.run.name, f"--storage-root={self.storage_root}"]
        return Process([*CLUSTERFIT, *arguments], {}).wait()

    def plan(self, *options: str) -> dict[str, Any]:
        """Return what `clusterfit plan` says of the run file."""
        arguments = ["plan", str(self._write_run_file()), f"--data-root={self.data_root}"]
        ending = Process([*CLUSTERFIT, *arguments, "--output=json", *options], {}).wait()
        assert ending.code == 0, ending.text
        planned: dict[str, Any] = json.loads(ending.text)
        return planned

    def find_processes(self) -> list[int]:
        """Return the pids of everything that works on the storage root."""
        word = f"--storage-root={self.storage_root}".encode()
        return [pid for pid in _list_pids() if word in _read_proc(pid, "cmdline")]

    def _write_run_file(self) -> Path:
        path = self.storage_root / f"{self.config['name']}.yaml"  # YAML holds JSON
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.config), encoding="utf-8")
        return path


CLUSTERFIT = [str(Path(sys.executable).with_name("clusterfit"))]


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for a condition; fail by saying what did not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(_POLL_SECONDS)


def find_descendants(pid: int) -> list[int]:
    """Return the pids of all that a process has started, and what these have."""
    parents = {child: _read_parent(child) for child in _list_pids()}
    found: list[int] = []
    ring = [pid]
    while ring:
        ring = [child for child, parent in parents.items() if parent in ring]
        found += ring
    return found


def is_alive(pid: int) -> bool:
    """Tell whether a process runs, and is not merely waited for by nobody."""
    return _read_proc(pid, "stat").rpartition(b")")[2].split()[:1] not in ([], [b"Z"])


def list_files(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return (inode, size, time of change) of each file below a folder."""
    return {
        path.relative_to(folder).as_posix(): (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (stat := path.stat())
    }


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a .jsonl file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _list_pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())


def _read_proc(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # gone meanwhile
        return b""


def _read_parent(pid: int) -> int:
    fields = _read_proc(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if fields else 0
