"""What else ran on the machine while something was measured."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

_STAT: Final = Path("/proc/stat")
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


class ForeignLoad:
    """Processor time that other processes took, from when this was made."""

    def __init__(self) -> None:
        """Begin."""
        self._busy, self._own = _read_busy_seconds(), _read_own_seconds()

    def measure(self, seconds: float) -> float:
        """Return the mean number of cores that others kept busy in these seconds.

        The kernel counts in hundredths of a second, so a short time says little.
        """
        busy = _read_busy_seconds() - self._busy
        own = _read_own_seconds() - self._own
        return max(0.0, (busy - own) / max(seconds, 1e-9))


def _read_busy_seconds() -> float:
    """Return the seconds that all cores were busy, what a hypervisor took included."""
    fields = [int(field) for field in _STAT.read_text(encoding="ascii").split("\n")[0].split()[1:9]]
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts, stolen = fields
    busy = user + nice + system + interrupts + soft_interrupts + stolen
    return busy / _TICKS_PER_SECOND


def _read_own_seconds() -> float:
    times = os.times()
    return time.process_time() + times.children_user + times.children_system
