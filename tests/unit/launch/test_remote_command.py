"""A command in a pod that ends before all was sent says why, and no message is too large."""

from __future__ import annotations

import json
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from clusterfit.launch.failures import ClusterError
from clusterfit.launch.remote_command import RemoteCommand

STDERR, END = 2, 3


class Socket:
    """A connection that breaks after some messages, with what the command had said until then."""

    def __init__(self, breaks_after: int, *said: tuple[int, bytes]) -> None:
        self.sent: list[bytes] = []
        self._breaks_after = breaks_after
        self._said = deque(said)

    def send_binary(self, message: bytes) -> None:
        if len(self.sent) >= self._breaks_after:
            raise BrokenPipeError(32, "Broken pipe")
        self.sent.append(message)

    def recv(self) -> bytes:
        if not self._said:
            raise ConnectionResetError(104, "Connection reset by peer")
        channel, piece = self._said.popleft()
        return bytes([channel]) + piece

    def settimeout(self, seconds: float) -> None:
        assert seconds < 60

    def close(self) -> None:
        pass


def open_command(monkeypatch: pytest.MonkeyPatch, socket: Socket) -> RemoteCommand:
    monkeypatch.setattr("clusterfit.launch.remote_command._connect", lambda *_: socket)
    api: Any = SimpleNamespace(namespace="team", connection=None, log_in_again=None)
    return RemoteCommand(api, "digits-files", ["receive"])


def test_what_is_sent_goes_in_messages_of_a_size_that_servers_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    socket = Socket(100)
    content = bytes(range(256)) * 10_000
    with open_command(monkeypatch, socket) as command:
        assert command.write(content) == len(content)
    assert max(map(len, socket.sent)) <= (1 << 20) + 1
    assert {message[0] for message in socket.sent} == {0}
    assert b"".join(message[1:] for message in socket.sent) == content


FULL = "[Errno 28] No space left on device: '/data/flowers'"
BROKEN = "run a command in pod digits-files (create pods/exec): the connection broke: [Errno 32]"
FAILED = json.dumps({"status": "Failure", "message": "command terminated"}).encode()


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (((STDERR, f"{FULL}\n".encode()), (END, FAILED)), f"in the pod: {FULL}"),
        (((STDERR, b"half a"),), BROKEN),
        ((), BROKEN),
    ],
)
def test_a_command_that_ends_before_all_was_sent_says_why(
    monkeypatch: pytest.MonkeyPatch, said: tuple[tuple[int, bytes], ...], wanted: str
) -> None:
    with (
        open_command(monkeypatch, Socket(1, *said)) as command,
        pytest.raises(ClusterError) as failure,
    ):
        command.write(bytes(3 << 20))
    assert str(failure.value).startswith(wanted)
