"""Log lines: to standard output for the pod's log, and to a copy in the run directory."""

from __future__ import annotations

import contextlib
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TextIO

from clusterfit.logline import format_line

_EAGER_SECONDS: Final = 60.0
"""For the first minute progress is told each second, afterwards every ten."""


class Log:
    """Writes logfmt lines, one write each, every one with its stage and rank."""

    def __init__(self, stage: str, rank: int | None, copy: Path | None = None) -> None:
        """Log for one rank, or for an entry (None); `copy` is appended to where that can be."""
        self.stage = stage
        self.rank = rank
        self._copy: TextIO | None = None
        if copy is not None:
            try:
                copy.parent.mkdir(parents=True, exist_ok=True)
                self._copy = copy.open("a", encoding="utf-8", buffering=1)
            except OSError as error:
                self.warning("no copy of this log", path=copy, error=error)

    def info(self, msg: str, **fields: object) -> None:
        """Write a line at level info."""
        self._write("info", msg, fields)

    def warning(self, msg: str, **fields: object) -> None:
        """Write a line at level warning."""
        self._write("warning", msg, fields)

    def error(self, msg: str, **fields: object) -> None:
        """Write a line at level error."""
        self._write("error", msg, fields)

    def _write(self, level: str, msg: str, fields: dict[str, object]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        who = {} if self.rank is None else {"rank": self.rank}
        line = format_line(
            {"ts": now, "level": level, "stage": self.stage, **who, "msg": msg, **fields}
        )
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        if self._copy is not None:
            with contextlib.suppress(OSError):  # a full disk must not stop what needs no disk
                self._copy.write(line + "\n")


def describe(error: Exception) -> str:
    """Return an unexpected error's kind and the first line of what it says."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


class ProgressReporter:
    """Tells from time to time how far a stage is, how fast, and when it will be done."""

    def __init__(self, log: Log, total: int, unit: str, done: int = 0, **fields: object) -> None:
        """Start at `done` of `total`; the rate counts only what this process sees being done.

        Each line has these fields as well.
        """
        self._log = log
        self._total = total
        self._unit = unit
        self._fields = fields
        self._start_done = done
        self._start = self._last = time.monotonic()
        self._told = self._stepped = done
        self._tell(done)

    def update(self, done: int, **fields: object) -> None:
        """Say that `done` units are done; a line is written when it is time for one."""
        now = time.monotonic()
        pause_seconds = 1.0 if now - self._start < _EAGER_SECONDS else 10.0
        if now - self._last >= pause_seconds or (done == self._total and done != self._told):
            self._last = now
            self._tell(done, **fields)

    def advance_to(self, advanced: int) -> None:
        """Say how many units have been done since the start."""
        self.update(self._start_done + advanced)

    def step(self, num_units: int) -> None:
        """Say that about so many more units are done, never more than there are."""
        self._stepped = min(self._stepped + num_units, self._total)
        self.update(self._stepped)

    def _tell(self, done: int, **fields: object) -> None:
        self._told = done
        seconds = time.monotonic() - self._start
        advanced = done - self._start_done
        rate = advanced / seconds if seconds > 0 else 0.0
        eta_seconds = (self._total - done) / rate if rate > 0 else -1.0
        self._log.info(
            "progress",
            done=done,
            total=self._total,
            unit=self._unit,
            rate=float(f"{rate:.4g}"),
            eta_seconds=round(eta_seconds),
            **self._fields,
            **fields,
        )
