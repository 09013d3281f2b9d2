"""Entries of several nodes, as threads of this process around a real store."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from types import FrameType

import pytest

from clusterfit.errors import TERMINATED_EXIT_CODE, RetryableError
from clusterfit.worker.entry import gang as module
from clusterfit.worker.entry.gang import Gang
from clusterfit.worker.entry.place import Place
from clusterfit.worker.log import Log

LOG = Log("train", rank=None)
BOUND_SECONDS = 60


@pytest.fixture
def first() -> Place:
    """Node 0 of two, which meet at a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        gang_port: int = probe.getsockname()[1]
    return Place(2, 0, 1, "127.0.0.1", gang_port - 1, "gang")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Where the second node's entry lives."""
    with ThreadPoolExecutor() as executor:
        yield executor


def second_of(first: Place) -> Place:
    return replace(first, node_rank=1)


def test_node_0_leaves_last(first: Place, pool: ThreadPoolExecutor) -> None:
    may_leave, has_left = threading.Event(), threading.Event()

    def be_second() -> tuple[str, int, int]:
        with Gang.join(second_of(first), LOG) as gang:
            assert may_leave.wait(BOUND_SECONDS)
            code = gang.leave(0)
            has_left.set()
        return gang.writer_token, gang.attempt_number, code

    other = pool.submit(be_second)
    with Gang.host(first, "token", 3, LOG) as gang:
        threading.Timer(0.5, may_leave.set).start()
        assert gang.leave(0) == 0
        assert may_leave.is_set(), "node 0 took the store with it while it was needed"
    assert other.result(BOUND_SECONDS) == ("token", 3, 0)


def test_nobody_waits_for_ever_for_a_node_that_was_done_and_does_not_say_so(
    first: Place, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PART_SECONDS", 0.3)
    is_over = threading.Event()

    def be_second() -> bool:
        with Gang.join(second_of(first), LOG) as gang:
            gang._parted.set()  # as one whose process is frozen: it does not even watch
            had_ended = is_over.wait(BOUND_SECONDS)
            gang.leave(0)
        return had_ended

    other = pool.submit(be_second)
    with Gang.host(first, "token", 1, LOG) as gang:
        assert gang.leave(0) == 0
    is_over.set()
    assert other.result(BOUND_SECONDS)


def test_a_failure_is_not_waited_with(first: Place, pool: ThreadPoolExecutor) -> None:
    def be_second() -> int:
        with Gang.join(second_of(first), LOG) as gang:
            return gang.leave(66)

    other = pool.submit(be_second)
    with Gang.host(first, "token", 1, LOG) as gang:
        assert other.result(BOUND_SECONDS) == 66
        assert gang.leave(65) == 65


class _TerminatedError(Exception):
    """SIGTERM came."""


@pytest.fixture
def _sigterm_raises() -> Iterator[None]:
    def terminate(_number: int, _frame: FrameType | None) -> None:
        raise _TerminatedError

    before = signal.signal(signal.SIGTERM, terminate)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def _watches_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.05)


def die(gang: Gang) -> None:
    gang._parted.set()  # killed: it neither leaves nor watches


def leave_with(code: int) -> Callable[[Gang], None]:
    def leave(gang: Gang) -> None:
        assert gang.leave(code) == code

    return leave


def raise_error(_gang: Gang) -> None:
    raise RetryableError("no GPU")


def raise_exit(_gang: Gang) -> None:
    raise SystemExit(TERMINATED_EXIT_CODE)


@pytest.mark.parametrize(
    ("end", "is_failure"),
    [
        (die, False),
        (leave_with(TERMINATED_EXIT_CODE), False),
        (raise_exit, False),
        (leave_with(203), True),
        (raise_error, True),
    ],
)
@pytest.mark.usefixtures("_sigterm_raises", "_watches_closely")
def test_a_node_that_comes_back_ends_the_attempt_of_all_and_is_known_for_a_failure(
    first: Place, pool: ThreadPoolExecutor, end: Callable[[Gang], None], is_failure: bool
) -> None:
    has_begun = threading.Event()

    def come_back() -> str:
        lost = second_of(first)
        with suppress(RetryableError, SystemExit), Gang.join(lost, LOG) as gang:
            assert has_begun.wait(BOUND_SECONDS)
            end(gang)
        with pytest.raises(RetryableError) as error, Gang.join(lost, LOG):
            pass
        return str(error.value)

    other = pool.submit(come_back)
    with Gang.host(first, "token", 1, LOG) as gang:
        threading.Timer(0.1, has_begun.set).start()
        with pytest.raises(_TerminatedError):
            signal.sigtimedwait([], BOUND_SECONDS)
        assert gang.leave(0) == TERMINATED_EXIT_CODE
        assert gang.is_broken_by_failure == is_failure
    assert other.result(BOUND_SECONDS) == "node rank 1 is still known to node 0"


def test_nobody_waits_for_ever_to_say_that_it_has_failed(
    first: Place, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TELL_SECONDS", 0.2)
    is_over = threading.Event()

    class Silent:
        """A store whose host is cut off."""

        def add(self, _name: str, _amount: int) -> None:
            is_over.wait(BOUND_SECONDS)

    def fail() -> int:
        with Gang.join(second_of(first), LOG) as gang:
            monkeypatch.setattr(gang, "_store", Silent())
            return gang.leave(203)

    other = pool.submit(fail)
    with Gang.host(first, "token", 1, LOG) as gang:
        assert other.result(BOUND_SECONDS / 2) == 203
        is_over.set()
        gang.leave(65)
