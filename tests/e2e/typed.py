"""Commands as a person types them: what they print is kept, and every wait has a bound."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.cluster.commands import DIES_WITH_PARENT

POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Answer:
    """How a command ended, and what it said: `stdout` to programs, `stderr` to people."""

    command: str
    code: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        """Show everything, for a failed assertion."""
        return f"$ {self.command}\n{self.stdout}{self.stderr}exited {self.code}"

    def expect(self, code: int) -> Answer:
        """Return the answer, which must have this exit code and no traceback."""
        assert self.code == code, f"want exit code {code}:\n{self}"
        assert "Traceback" not in self.stderr, str(self)
        return self


class Typed:
    """A command that runs while the test looks on; leaving the `with` block ends it."""

    def __init__(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> None:
        """Start it in a folder, with variables added to those of this process."""
        self._words = list(command)
        self._stdout, self._stderr = folder / f"{id(self)}.out", folder / f"{id(self)}.err"
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                [*DIES_WITH_PARENT, *self._words],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=folder,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the command and whatever it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    @property
    def lines(self) -> list[str]:
        """The whole lines of standard output so far."""
        return self._stdout.read_text(errors="replace").split("\n")[:-1]

    @property
    def remarks(self) -> list[str]:
        """The whole lines of standard error so far."""
        return self._stderr.read_text(errors="replace").split("\n")[:-1]

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def answer(self) -> Answer:
        """Return what there is of it; -1 as the code of one that still runs."""
        code = self._process.poll()
        return Answer(
            " ".join(self._words),
            -1 if code is None else code,
            self._stdout.read_text(errors="replace"),
            self._stderr.read_text(errors="replace"),
        )

    def wait(self, timeout_seconds: float) -> Answer:
        """Return how it ended; fail where it has not within a bound."""
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"still running after {timeout_seconds:g} s:\n{self.answer()}"
            ) from None
        return self.answer()

    def wait_until(self, holds: Callable[[Typed], bool], timeout_seconds: float = 240) -> None:
        """Wait until something holds; fail where the command ends before, or time runs out."""
        deadline = time.monotonic() + timeout_seconds
        while not holds(self):
            assert self.is_running or holds(self), f"ended too early:\n{self.answer()}"
            assert time.monotonic() < deadline, (
                f"not within {timeout_seconds:g} s:\n{self.answer()}"
            )
            time.sleep(POLL_SECONDS)

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.killpg(self._process.pid, signal.SIGINT)

    def freeze(self) -> None:
        """Stop it where it is, as a laptop that is closed does."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.killpg(self._process.pid, signal.SIGCONT)
