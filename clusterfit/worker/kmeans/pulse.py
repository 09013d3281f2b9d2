"""What long loops over rows do from time to time: say how far they are, and hear SIGTERM.

A rank that is told to stop must not leave alone: its peers would wait for it in the next sum. So a
loop holds nothing that waits for others, any rank may leave it early, and at its end all agree.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from clusterfit.errors import TerminatedError
from clusterfit.worker.distenv import DistEnv
from clusterfit.worker.log import Log, ProgressReporter

_KEY: Final = "stopping"
_ASK_SECONDS: Final = 1.0
"""How often a rank asks whether another one has been told to stop, which is a message."""

Beat = Callable[[int], None]
"""Called with the number of rows that are done, or of whatever the phase counts."""


class _LeftError(Exception):
    """A loop was left early."""


class Pulse:
    """Says nothing and hears nothing: what an engine has where no stage is around it."""

    def follow(self, phase: str, total: int, unit: str = "rows") -> Beat:  # noqa: ARG002
        """Return what says how far a phase is."""
        return _ignore

    @contextmanager
    def loop(self, phase: str = "", total: int = 0) -> Iterator[Beat]:
        """Yield what every turn of a loop calls; without a phase it only listens.

        Every rank must come through, in the same order; nothing inside may wait for another rank.

        Raises:
            TerminatedError: at the end of the loop, on every rank, where any was told to stop.
        """
        beat = self.follow(phase, total) if phase else _ignore
        is_left = False

        def turn(done: int) -> None:
            if self._hears_stop():
                raise _LeftError
            beat(done)

        try:
            yield turn
            beat(total)
        except _LeftError:
            is_left = True
        self.check()
        assert not is_left, "whoever left was told to stop, or heard that another was"

    def check(self) -> None:
        """Raise TerminatedError on every rank where any was told to stop; every rank must call."""

    def _hears_stop(self) -> bool:
        return False


class StagePulse(Pulse):
    """That of a stage's ranks: rank 0 tells of progress, and all end together."""

    def __init__(self, env: DistEnv, log: Log, *, is_shared: bool = True) -> None:
        """Listen for all ranks, or for this one alone where the others do something else."""
        self._env = env
        self._log = log
        self._is_shared = is_shared and env.world_size > 1
        self._asked = time.monotonic()

    def follow(self, phase: str, total: int, unit: str = "rows") -> Beat:
        """Return what tells of progress, on rank 0."""
        if not self._env.is_main_rank or not total:
            return _ignore
        return ProgressReporter(self._log, total, unit, phase=phase).update

    def check(self) -> None:
        """See `Pulse.check`."""
        stops = self._env.agree_to_stop() if self._is_shared else self._env.stop.is_set
        if stops:
            raise TerminatedError("stopped by SIGTERM; what is finished is kept")

    def _hears_stop(self) -> bool:
        """Tell whether this rank was told to stop, or another one that has said so."""
        if not self._is_shared:
            return self._env.stop.is_set
        if self._env.stop.is_set:
            self._env.store.set(_KEY, "1")
            return True
        now = time.monotonic()
        if now - self._asked < _ASK_SECONDS:
            return False
        self._asked = now
        return self._env.store.check([_KEY])


def _ignore(_done: int) -> None:
    """Be told in vain."""
