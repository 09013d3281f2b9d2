"""The address at which node 0 answers, whatever its name leads to meanwhile."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from clusterfit.errors import RetryableError
from clusterfit.worker.entry.address import find_address


@pytest.fixture
def lost() -> Iterator[socket.socket]:
    """An address where nobody answers: the queue of those who wait for it is full."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.2", 0))
        listener.listen(0)
        for each in (first, second):
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        yield listener


def test_a_name_that_leads_to_a_lost_address_is_resolved_again(
    lost: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = lost.getsockname()[1]
    answers = iter(["127.0.0.2", "127.0.0.2"])
    resolve = socket.getaddrinfo

    def tell(host: str, *more: object) -> object:
        assert host == "node-0"
        return resolve(next(answers, "127.0.0.3"), *more)  # type: ignore[arg-type]

    monkeypatch.setattr("socket.getaddrinfo", tell)
    with socket.create_server(("127.0.0.3", port)):
        assert find_address("node-0", port, 60, connect_seconds=0.2) == "127.0.0.3"


def test_node_0_may_come_later() -> None:
    with socket.socket() as late:
        late.bind(("127.0.0.1", 0))
        port = late.getsockname()[1]
        refused = threading.Event()
        found: list[str] = []

        def look() -> None:
            refused.set()
            found.append(find_address("localhost", port, 60))

        thread = threading.Thread(target=look)
        thread.start()
        refused.wait()
        late.listen()
        thread.join()
    assert found == ["127.0.0.1"]


def test_who_does_not_come_is_named(lost: socket.socket) -> None:
    port = lost.getsockname()[1]
    with pytest.raises(RetryableError, match=f"node 0 was not there: 127.0.0.2:{port}: timed out"):
        find_address("127.0.0.2", port, 0, connect_seconds=0.2)
