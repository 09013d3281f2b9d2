"""A worker's lines as a person wants them: one progress bar per stage, and what needs attention.

Where the output is no terminal, or one that only goes on, the lines stay as they are.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from clusterfit.logline import parse_line, read_progress

_BAR_WIDTH = 24
_NOT_TOLD = frozenset({"ts", "level", "stage", "rank", "msg", "folder", "exit_code"})


class StageDisplay:
    """Shows the lines of one stage after another."""

    def __init__(self, console: Console | None = None) -> None:
        """Draw on a console, by default standard output."""
        # FORCE_COLOR and the like ask for colours, and rich would take a pipe for a terminal.
        self._console = console or Console(highlight=False, force_terminal=sys.stdout.isatty())
        self._draws = self._console.is_terminal and not self._console.is_dumb_terminal
        self._bars = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=_BAR_WIDTH),
            TextColumn("{task.fields[state]}"),
            console=self._console,
        )
        self._stage = ""
        self._task: TaskID | None = None
        self._finished = ""
        self._started = 0.0

    def __enter__(self) -> Self:
        """Begin to draw, where there is a terminal."""
        if self._draws:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the bars as they are."""
        if self._draws:
            self._bars.stop()

    def begin(self, stage: str) -> None:
        """Begin a stage's bar; a line of another stage ends it and begins that one's."""
        self._stage = stage
        self._finished = ""
        self._started = time.monotonic()
        self._task = self._bars.add_task(stage, total=None, state="starting")

    def end(self, exit_code: int) -> None:
        """End the stage's bar: with what was found, or with the exit code."""
        if self._task is None:
            return
        took = format_seconds(time.monotonic() - self._started)
        state = f"{took}  {self._finished}" if exit_code == 0 else f"{took}  exit {exit_code}"
        self._bars.update(self._task, total=1, completed=int(exit_code == 0), state=state)

    def show(self, line: str) -> None:
        """Show one line of the worker."""
        if not self._draws:
            print(line, flush=True)
            return
        fields = parse_line(line)
        if fields is None:
            self._console.print(Text(line))
            return
        if fields.get("stage", self._stage) != self._stage:
            self.end(0)
            self.begin(fields["stage"])
        if (progress := read_progress(fields)) is not None and self._task is not None:
            left = format_seconds(progress.eta_seconds)
            self._bars.update(
                self._task,
                total=progress.total,
                completed=progress.done,
                state=f"{progress.done:,}/{progress.total:,} {progress.unit}"
                f"  {progress.rate:,.0f}/s  {left} left",
            )
        elif fields.get("level") in {"warning", "error"}:
            who = f" (rank {fields['rank']})" if "rank" in fields else ""
            self._console.print(Text(f"{fields['level']}: {fields.get('msg', '')}{who}"))
            for key, value in fields.items():
                if key not in _NOT_TOLD:
                    self._console.print(Text(f"  {key}: {value}"))
        elif fields.get("msg") == "already finished":
            self._finished = "already finished"
        elif fields.get("msg") == "finished":
            told = (f"{key} {value}" for key, value in fields.items() if key not in _NOT_TOLD)
            self._finished = _shorten("  ".join(told), self._console.width - _BAR_WIDTH - 20)


def format_seconds(seconds: float) -> str:
    """Return a time as a clock shows it: `1:05`, `72:00:00`; `?` where it is negative, unknown."""
    if seconds < 0:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"
