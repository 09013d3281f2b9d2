"""This node's ranks, as the entry has them: forked from a nursery that it starts and talks to."""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Final, Self

from clusterfit.errors import (
    EXIT_CODE_MEANINGS,
    KILLED_EXIT_CODE,
    KilledError,
    RetryableError,
)
from clusterfit.worker.arguments import Assignment
from clusterfit.worker.entry.place import Place

_POLL_SECONDS: Final = 0.1
_KILLED_SECONDS: Final = 30.0
"""A process that hangs in a driver does not even end by SIGKILL: nobody waits longer for it."""


class LocalRanks:
    """The ranks of one stage after another; the nursery warms up from `warm_up` on."""

    def __init__(self, assignment: Assignment, stages: list[str], place: Place) -> None:
        """Keep what the nursery needs; nothing is started yet."""
        self._assignment = assignment
        self._stages = stages
        self._place = place
        self._nursery = 0
        """Its pid; 0: it was not started."""
        self._nursery_code: int | None = None
        self._channel, self._far_end = socket.socketpair()
        self._buffer = b""
        self._is_warm = False
        self._codes: dict[int, int | None] = {}

    def __enter__(self) -> Self:
        """Be ready to be warmed up."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the nursery, and with it whatever rank is left."""
        if self._nursery and self._nursery_code is None:
            os.kill(self._nursery, signal.SIGKILL)
            self._await_nursery()
        self._far_end.close()
        self._channel.close()

    def warm_up(self, threads_paused: Callable[[], AbstractContextManager[None]]) -> None:
        """Import torch, and let the nursery import what else the stages need.

        Args:
            threads_paused: While in it this process has a single thread, and can be forked.
        """
        if self._nursery:
            return
        if self._place.num_nodes == 1 and sys.platform == "linux":
            # A host name that resolves to nothing, or to another interface, must not matter here.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        gc.disable()  # half a million objects that stay: walking them is a fifth of the time
        # torch: the entry's agent needs it as well, and so it is imported once for all.
        import torch.distributed  # noqa: F401

        from clusterfit.worker.nursery import fork_nursery

        gc.freeze()  # never collected here either, so that its pages stay shared
        with threads_paused():
            self._nursery = fork_nursery(
                self._assignment, self._stages, self._channel, self._far_end
            )
        gc.enable()
        self._far_end.close()  # so that the nursery's end is the only one

    def wait_until_warm(self, seconds: float = _POLL_SECONDS) -> bool:
        """Wait for a moment; tell whether ranks can be started."""
        if not self._is_warm:
            self._listen(seconds)
        return self._is_warm

    def start(
        self, stage: str, writer_token: str, attempt: int, environments: list[dict[str, str]]
    ) -> None:
        """Fork one rank for each environment, local rank 0 first."""
        self._codes = dict.fromkeys(range(len(environments)))
        self._tell(
            {
                "stage": stage,
                "writer": writer_token,
                "attempt": attempt,
                "environments": environments,
            }
        )

    def poll(self) -> list[int | None]:
        """Return each local rank's exit code, None of those that run.

        Raises:
            RetryableError: when the nursery was killed, and they with it.
        """
        self._listen(0)
        return list(self._codes.values())

    def stop(self, number: int, grace_seconds: float) -> None:
        """Send every rank a signal, SIGKILL after some time, and wait until all have ended."""
        for each, seconds in ((number, grace_seconds), (signal.SIGKILL, _KILLED_SECONDS)):
            try:
                if self._are_running():
                    self._tell({"signal": int(each)})
                deadline = time.monotonic() + seconds
                while self._are_running() and time.monotonic() < deadline:
                    self._listen(_POLL_SECONDS)
            except RetryableError:  # no nursery, no ranks
                self._codes = {
                    rank: -signal.SIGKILL if code is None else code
                    for rank, code in self._codes.items()
                }

    def _are_running(self) -> bool:
        return None in self._codes.values()

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            self._channel.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self._raise_lost()

    def _listen(self, seconds: float) -> None:
        """Take in what the nursery says within some time."""
        if not select.select([self._channel], [], [], seconds)[0]:
            return
        try:
            received = self._channel.recv(1 << 16)
        except ConnectionResetError:  # it ended with a request of ours unread
            received = b""
        if not received:
            self._raise_lost()
        *lines, self._buffer = (self._buffer + received).split(b"\n")
        for message in map(json.loads, lines):
            if "ready" in message:
                self._is_warm = True
            else:
                self._codes[message["ended"]] = message["code"]

    def _raise_lost(self) -> None:
        code = self._await_nursery()
        nursery = "the process that this node's ranks are forked from"
        if code == -signal.SIGKILL:
            raise KilledError(f"{nursery} was {EXIT_CODE_MEANINGS[KILLED_EXIT_CODE]}")
        raise RetryableError(f"{nursery} ended with {code}")

    def _await_nursery(self) -> int:
        """Wait until the nursery has ended, and return its exit code."""
        if self._nursery_code is None:
            _, status = os.waitpid(self._nursery, 0)
            self._nursery_code = os.waitstatus_to_exitcode(status)
        return self._nursery_code
