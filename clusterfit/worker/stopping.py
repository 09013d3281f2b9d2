"""Being asked to stop: by which signals, and where it is safe to."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from clusterfit.errors import TerminatedError

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""A terminal or a service manager sends them to every process at once, but the entry alone acts on
them: it sends SIGTERM to its ranks, and nobody else is to end before these have."""


class StopRequest:
    """SIGTERM as a flag, looked at where it is safe to stop."""

    def __init__(self) -> None:
        """Install the handler."""
        self.is_set = False
        signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, _signum: int, _frame: FrameType | None) -> None:
        self.is_set = True

    def check(self) -> None:
        """Raise TerminatedError where stopping needs nobody else's consent."""
        if self.is_set:
            raise TerminatedError("stopped by SIGTERM; what is finished is kept")


@contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Hold these signals back from this thread, and for good from processes that it starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
