"""The process from which a node's ranks are forked, itself a fork of the entry.

Importing torch and torchvision takes a core several seconds. The nursery does it once, on top of
what the entry has imported, and each rank of each stage is a fork of it. It starts no thread and
touches no GPU, which makes its forks safe (the threads of numpy's OpenBLAS are stopped by its own
handler before a fork).

The entry talks to it through a socket pair, one JSON object a line:

    entry     {"stage": "extract", "writer": ..., "attempt": 1, "environments": [{"RANK": "0"...}]}
    nursery   {"ready": true}, once; {"ended": <local rank>, "code": <as subprocess has it>}
    entry     {"signal": 15}, for every rank that has not ended
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, NoReturn

from clusterfit.errors import RETRYABLE_EXIT_CODE
from clusterfit.worker.arguments import Assignment
from clusterfit.worker.orphan import die_with_parent, tie_to_parent
from clusterfit.worker.stopping import stop_signals_blocked


def fork_nursery(
    assignment: Assignment, stages: list[str], near_end: socket.socket, far_end: socket.socket
) -> int:
    """Fork a nursery for these stages off this process, which must have a single thread.

    On macOS it has another one, which looks at its parent and holds no lock.

    Args:
        assignment: What its ranks get, but for the stage.
        stages: Whose programs are imported.
        near_end: The caller's end of the channel.
        far_end: The nursery's.

    Returns:
        The nursery's pid. It ends with this process, or when the near end is closed.
    """
    assert threading.active_count() == 1 or sys.platform != "linux"
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    with stop_signals_blocked():  # in the nursery for good
        pid = os.fork()
        if pid == 0:
            near_end.close()
            _be_nursery(assignment, stages, far_end, parent)
    return pid


def _be_nursery(
    assignment: Assignment, stages: list[str], channel: socket.socket, parent: int
) -> NoReturn:
    code = RETRYABLE_EXIT_CODE
    try:
        tie_to_parent(parent)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the entry has a handler of its own
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a file descriptor
            os.dup2(nothing.fileno(), 0)
        preload(stages)
        gc.freeze()  # what all ranks share is never collected, so its pages stay shared
        gc.enable()
        with channel:
            _Nursery(channel, assignment).serve()
        code = 0
    except BaseException:  # noqa: BLE001 - it must never return into the entry's program
        traceback.print_exc()
    finally:
        _end(code)


def _end(code: int) -> NoReturn:
    """End this fork: none of the programs that it was forked from may go on in it.

    Threads of loaders, or of a process group whose peer has died, do not hold it back either.
    """
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def preload(stages: list[str]) -> None:
    """Import the programs of these stages and all that they import."""
    import_module("clusterfit.worker.rank")
    for stage in stages:
        import_module(f"clusterfit.worker.stages.{stage}")


@dataclass(frozen=True, slots=True)
class _Child:
    local_rank: int
    pid: int

    def send(self, number: int) -> None:
        """Send a signal to the rank and to the processes that load its data, deaf to SIGTERM."""
        with contextlib.suppress(PermissionError):  # macOS says so of one that has just ended
            os.killpg(self.pid, number)


class _Nursery:
    """Forks, signals and waits; as the parent it alone knows which pids are still its ranks'."""

    def __init__(self, channel: socket.socket, assignment: Assignment) -> None:
        self._channel = channel
        self._assignment = assignment
        self._children: dict[int, _Child] = {}
        self._buffer = b""
        self._is_open = True
        self._wakeup, self._waker = socket.socketpair()
        self._selector = selectors.DefaultSelector()

    def serve(self) -> None:
        """Do as the entry says until it has closed its end."""
        self._waker.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno())
        signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)  # only to be woken
        self._selector.register(self._channel, selectors.EVENT_READ, self._obey)
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._reap)
        self._send({"ready": True})
        while self._is_open:
            for key, _ in self._selector.select():
                action: Callable[[], None] = key.data
                action()

    def _obey(self) -> None:
        received = self._channel.recv(1 << 16)
        self._is_open = bool(received)
        *lines, self._buffer = (self._buffer + received).split(b"\n")
        for request in map(json.loads, lines):
            if "signal" in request:
                for child in self._children.values():
                    child.send(request["signal"])
            else:
                for local_rank, environment in enumerate(request["environments"]):
                    self._fork(local_rank, environment, request)

    def _reap(self) -> None:
        self._wakeup.recv(1 << 16)
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            child = self._children.pop(pid)
            self._send({"ended": child.local_rank, "code": os.waitstatus_to_exitcode(status)})

    def _fork(self, local_rank: int, environment: dict[str, str], request: dict[str, Any]) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._be_rank(parent, environment, request)
        with contextlib.suppress(OSError):  # whichever of the two comes first
            os.setpgid(pid, pid)
        self._children[pid] = _Child(local_rank, pid)

    def _be_rank(
        self, parent: int, environment: dict[str, str], request: dict[str, Any]
    ) -> NoReturn:
        code = RETRYABLE_EXIT_CODE
        try:
            with contextlib.suppress(OSError):
                os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for each in (self._selector, self._channel, self._wakeup, self._waker):
                each.close()
            # The entry's word alone counts here too. One that came meanwhile strikes now.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            die_with_parent(parent)
            os.environ.update(environment)
            from clusterfit.worker.rank import run_rank

            assignment = replace(self._assignment, stage=request["stage"])
            code = run_rank(assignment, request["writer"], request["attempt"])
        except BaseException:  # noqa: BLE001 - a rank must never return into the nursery's loop
            traceback.print_exc()
        finally:
            _end(code)

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # the entry is gone, and with it the interest
            self._channel.sendall(json.dumps(message).encode() + b"\n")
