"""A process whose parent was killed must not go on working behind everybody's back."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from typing import Final

_POLL_SECONDS: Final = 0.2
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)


def die_with_parent(parent: int) -> None:
    """Kill this process, without ceremony, when its parent dies, or at once where it already has.

    Ranks would outlive a nursery that is killed with SIGKILL, and the entry a killed
    `clusterfit run`. What they might still write is lost like any crash's, and the next attempt
    continues from what is on disk.

    Args:
        parent: pid of the process that started this one. It may have died before this call, and
            then `os.getppid` already tells of another.
    """
    tie_to_parent(parent)
    if sys.platform != "linux":
        threading.Thread(target=_watch, args=(parent,), name="parent watch", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def tie_to_parent(parent: int) -> None:
    """Do the same without a thread, by the kernel alone: in full on Linux only."""
    if sys.platform == "linux":
        # The kernel does it in the same moment, even while a long call holds the interpreter.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
