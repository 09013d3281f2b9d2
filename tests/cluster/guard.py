"""The guard: a process beside the cluster that removes it once the process that it is for has died.

So nothing stays where tests, or a start, are killed by what they cannot hear.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from functools import partial
from pathlib import Path

from tests.cluster import processes
from tests.cluster.commands import wait_for
from tests.cluster.machine import Machine
from tests.cluster.owner import read_owner
from tests.cluster.paths import CHECKOUT, State


def post(state: State) -> None:
    """Start the guard of a cluster whose owner is recorded."""
    guard: list[str | Path] = [sys.executable, "-m", "tests.cluster", "guard", state.root]
    processes.spawn(["env", "-C", CHECKOUT, *guard], state.logs / "guard.log")


def watch(state: State) -> None:
    """Be the guard: until the cluster is one that stays, or its owner, the last one, has died."""
    while True:
        try:
            owner = read_owner(state)
        except (OSError, ValueError):
            return
        if owner is None:
            return
        wait_for(
            "the owner ends",
            partial(processes.is_alive, owner["pid"], owner["start_time"]),
            lambda is_alive: not is_alive,
            timeout_seconds=float("inf"),
            interval_seconds=0.5,
        )
        with state.lock(), contextlib.suppress(OSError, ValueError):
            if read_owner(state) == owner:
                remove(state)
                return


def remove(state: State) -> None:
    """Stop the cluster and remove all that it made, whatever state it is in; then its guard."""
    Machine(state).destroy()
    for pid in _find_guards(state):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for("the guard ends", lambda: not _find_guards(state), timeout_seconds=60)


def _find_guards(state: State) -> list[int]:
    """Every process that guards this state folder, but this one."""
    words = [b"-m", b"tests.cluster", b"guard", os.fsencode(state.root)]
    return [
        pid
        for pid in processes.pids()
        if processes.command_line(pid)[-4:] == words and pid != os.getpid()
    ]
