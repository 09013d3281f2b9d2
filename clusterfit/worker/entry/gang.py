"""The entries of one stage's nodes stay together: when one is lost, all come back.

torchrun with a fixed number of nodes and the training operator both leave survivors waiting for a
peer that was recreated. So node 0's entry hosts a small store in which each entry registers. A node
rank that registers twice, or a store that is gone, ends the attempt of every entry with 143, and
all pods meet again. A node that fails says so in the store before it goes, so that node 0 can tell
one that fails each time from one that was lost.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, TypeVar

from clusterfit.errors import TERMINATED_EXIT_CODE, RetryableError
from clusterfit.worker.entry.address import find_address
from clusterfit.worker.entry.place import Place
from clusterfit.worker.log import Log

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore

_T = TypeVar("_T")

_POLL_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.1
_MEET_SECONDS: Final = 900.0
_STORE_SECONDS: Final = 60.0
_PART_SECONDS: Final = 30.0
_TELL_SECONDS: Final = 5.0
_KILL_SECONDS: Final = 10.0
"""After a peer is lost no checkpoint can be agreed on: so long may ranks take to notice it."""


class Gang:
    """This entry's membership; a gang of one node needs no store and is never lost."""

    def __init__(self, place: Place, store: TCPStore | None, log: Log) -> None:
        """Use `host` or `join`."""
        self.place = place
        """Where peers joined, `master_addr` is the address at which node 0 answered."""
        self._store = store
        self._log = log
        self._parted = threading.Event()
        self._lost = ""
        self.is_broken_by_failure = False
        """Whether a node had left with a failure, not by a signal, when one came back."""
        self.writer_token = ""
        self.attempt_number = 0

    @classmethod
    @contextmanager
    def host(cls, place: Place, writer_token: str, attempt: int, log: Log) -> Iterator[Gang]:
        """Host the store on node 0 and tell the others what they work under."""
        store = _open_store(place, is_host=True) if place.num_nodes > 1 else None
        gang = cls(place, store, log)
        gang.writer_token, gang.attempt_number = writer_token, attempt
        if store is not None:
            store.set("writer", writer_token)
            store.set("attempt", str(attempt))
        with gang._watched():
            yield gang

    @classmethod
    @contextmanager
    def join(cls, place: Place, log: Log) -> Iterator[Gang]:
        """Join the store of node 0.

        Raises:
            RetryableError: when node 0 does not come, or this rank's place is still taken.
        """
        try:
            place, store, token, attempt = _call_interruptibly(lambda: _meet(place, log))
        except RuntimeError as error:
            raise RetryableError(f"node 0 was not there: {error}".splitlines()[0]) from error
        gang = cls(place, store, log)
        gang.writer_token, gang.attempt_number = token, attempt
        with gang._watched():
            yield gang

    def leave(self, code: int) -> int:
        """Return this entry's exit code, once every entry has said that its ranks are done."""
        if self._lost:
            return TERMINATED_EXIT_CODE
        self._parted.set()
        if code not in {0, TERMINATED_EXIT_CODE}:
            self._tell_failure()
        if self._store is None or code:
            return code
        try:
            self._store.add("done", 1)
            deadline = time.monotonic() + _PART_SECONDS
            # Node 0 takes the store with it: it leaves last.
            while self.place.node_rank == 0 and self._store.add("done", 0) < self.place.num_nodes:
                if time.monotonic() > deadline:
                    break
                time.sleep(_PAUSE_SECONDS)
        except RuntimeError:
            pass  # node 0 has left before: its ranks passed the last barrier, so did ours
        return code

    @contextmanager
    def _watched(self) -> Iterator[None]:
        if self._store is None:
            yield
            return
        name = f"node-{self.place.node_rank}"
        if self._store.add(name, 1) > 1:
            raise RetryableError(f"node rank {self.place.node_rank} is still known to node 0")
        watcher = threading.Thread(target=self._watch, args=(self._store,), daemon=True)
        watcher.start()
        try:
            self._wait_for_all(self._store)
            try:
                yield
            except Exception:
                self._tell_failure()
                raise
        finally:
            self._parted.set()

    def _tell_failure(self) -> None:
        """Leave word that this node was not lost but has failed, where node 0 still listens."""
        if (store := self._store) is None or self._lost:
            return

        def tell() -> None:
            with suppress(RuntimeError):  # node 0 is gone
                store.add("failed", 1)

        # What is cut off from node 0 would wait for its answer.
        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        teller.join(_TELL_SECONDS)

    def _wait_for_all(self, store: TCPStore) -> None:
        """Wait until every entry is there: torchrun's own waiting is deaf to SIGTERM.

        Raises:
            RetryableError: when one does not come, or node 0 goes.
        """
        num_nodes = self.place.num_nodes
        deadline = time.monotonic() + _MEET_SECONDS
        try:
            if store.add("met", 1) < num_nodes:
                self._log.info("waiting for all nodes", nodes=num_nodes)
            while (num_met := store.add("met", 0)) < num_nodes:
                if time.monotonic() > deadline:
                    raise RetryableError(f"only {num_met} of {num_nodes} nodes came")
                time.sleep(_PAUSE_SECONDS)
        except RuntimeError as error:
            raise RetryableError(f"node 0 is gone: {error}".splitlines()[0]) from error

    def _watch(self, store: TCPStore) -> None:
        while not self._parted.wait(_POLL_SECONDS):
            try:
                twice = [
                    rank for rank in range(self.place.num_nodes) if store.add(f"node-{rank}", 0) > 1
                ]
                # Now: later there are also those that fail because this node stops.
                self.is_broken_by_failure = bool(twice) and store.add("failed", 0) > 0
            except RuntimeError:
                self._stop_ranks("node 0 is gone")
                return
            if twice:
                self._stop_ranks(f"node {twice[0]} came back")
                return

    def _stop_ranks(self, why: str) -> None:
        if self._parted.is_set():
            return
        self._lost = why
        self._log.warning("the gang is broken, all nodes start again", why=why)
        os.kill(os.getpid(), signal.SIGTERM)
        if not self._parted.wait(_KILL_SECONDS):
            for pid in _find_children():
                os.kill(pid, signal.SIGKILL)


def _meet(place: Place, log: Log) -> tuple[Place, TCPStore, str, int]:
    """Connect to node 0's store; return where it answers, the store, and what node 0 tells."""
    log.info("waiting for node 0", address=place.master_addr)
    address = find_address(place.master_addr, place.master_port + 1, _MEET_SECONDS)
    met = replace(place, master_addr=address)
    store = _open_store(met, is_host=False)
    return met, store, store.get("writer").decode(), int(store.get("attempt"))


def _call_interruptibly(work: Callable[[], _T]) -> _T:
    """Call what blocks in C++ in a thread, so that SIGTERM ends the waiting in Python at once.

    A signal's handler runs in the main thread and between two of its own instructions only.
    """
    ended: SimpleQueue[Future[_T]] = SimpleQueue()
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again where it was called
            future.set_exception(error)
        ended.put(future)

    threading.Thread(target=run, daemon=True).start()
    return ended.get().result()


def _open_store(place: Place, is_host: bool) -> TCPStore:
    from torch._C._distributed_c10d import TCPStore

    return TCPStore(
        place.master_addr,
        place.master_port + 1,
        is_master=is_host,
        wait_for_workers=False,
        timeout=timedelta(seconds=_STORE_SECONDS),
    )


def _find_children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:  # noqa: PTH123
        return [int(pid) for pid in file.read().split()]
