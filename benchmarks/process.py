"""A measured side gets a process of its own: no pool, setting or cache of another reaches it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.settings import build_environment
from clusterfit.worker.cores import count_cores

_ROOT: Final = Path(__file__).parents[1]
_SAMPLE_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Finished:
    """What a process said, and what the kernel says of it."""

    reply: dict[str, Any] | None
    """None where it did not live to say anything."""
    exit_code: int
    error: str
    """The last line on its standard error, where it failed."""
    peak_anonymous_bytes: int
    """Largest resident set without mapped files, sampled every 50 ms."""


def run_side(
    request: Mapping[str, Any],
    setting: str,
    prefix: Sequence[str] = (),
    module: str = "benchmarks.side",
    threads: int | None = None,
) -> Finished:
    """Run one request in a fresh process with an empty cache of compiled code.

    Args:
        request: JSON types, read by `module` from standard input.
        setting: of the BLAS; see `benchmarks.settings`.
        prefix: words before the command, such as those that enter a network namespace.
        module: whose `main` answers with one line of JSON.
        threads: of each pool; by default all cores.
    """
    with tempfile.TemporaryDirectory(prefix="clusterfit-bench-") as cache:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", module],
            cwd=_ROOT,
            env=build_environment(setting, threads or count_cores(), cache),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        sampler = _Sampler(process.pid)
        sampler.start()
        out, err = process.communicate(json.dumps(request))
        sampler.join()
    replies = [line for line in out.splitlines() if line.startswith("{")]
    reply = json.loads(replies[-1]) if replies and process.returncode == 0 else None
    last = (err.strip().splitlines() or [""])[-1]
    return Finished(reply, process.returncode, "" if reply else last, sampler.peak_anonymous_bytes)


class _Sampler(threading.Thread):
    """Reads a process's memory until it ends."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._status = Path(f"/proc/{pid}/status")
        self._ended = threading.Event()
        self._pid = pid
        self.peak_anonymous_bytes = 0

    def run(self) -> None:
        while not self._ended.wait(_SAMPLE_SECONDS):
            try:
                status = self._status.read_text(encoding="ascii")
            except OSError:
                return
            found = {key: int(kib) * 1024 for key, kib in _MEMORY.findall(status)}
            if "RssAnon" not in found:  # it has ended and waits to be collected
                return
            self.peak_anonymous_bytes = max(self.peak_anonymous_bytes, found["RssAnon"])


_MEMORY: Final = re.compile(r"^(RssAnon):\s+(\d+) kB", re.MULTILINE)
