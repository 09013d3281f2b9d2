"""A command in a pod that ends before all was sent says why; proxies; no message is too large."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import socket
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest
import yaml

from clusterfit.launch.access import Access
from clusterfit.launch.api import PODS, Api
from clusterfit.launch.connection import connect
from clusterfit.launch.failures import ClusterError
from clusterfit.launch.remote_command import CommandFailedError, RemoteCommand
from clusterfit.launch.transfer import send_files

STDOUT, STDERR, END = 1, 2, 3


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


def test_the_archive_that_is_closed_after_a_failure_does_not_hide_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It writes its rest, into a connection that is broken by then."""
    (tmp_path / "images.tar").write_bytes(bytes(8 << 20))
    status = {"details": {"causes": [{"reason": "ExitCode", "message": "73"}]}}
    end = json.dumps({"status": "Failure", **status}).encode()
    socket = Socket(3, (STDERR, f"{FULL}\n".encode()), (END, end))
    with (
        open_command(monkeypatch, socket) as command,
        pytest.raises(CommandFailedError) as failure,
    ):
        send_files(tmp_path, ["images.tar"], io.BufferedWriter(command, 1 << 18), lambda _: None)
    assert (str(failure.value), failure.value.status) == (f"in the pod: {FULL}", 73)


def write_kubeconfig(path: Path, proxy: str) -> Path:
    """Write the kubeconfig of a cluster that only the proxy can find."""
    cluster = {"server": "http://cluster.invalid:8001", "proxy-url": proxy}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": {}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    path.write_text(yaml.safe_dump(content))
    return path


def open_api(kubeconfig: Path) -> Api:
    access = Access("team", "", str(kubeconfig))
    return Api(lambda: connect(access), "team")


def read_head(stream: BinaryIO) -> list[str]:
    """Return the lines of a request up to the empty one."""
    return [line.decode().strip() for line in iter(stream.readline, b"\r\n")]


def serve_through_proxy(listener: socket.socket) -> tuple[list[str], list[str]]:
    """Play a proxy and the server behind it for one command that says hello; return what they hear.

    Source of the handshake: RFC 6455, section 4.2.2.
    """
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as stream:
        asked = read_head(stream)
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        upgrade = read_head(stream)
        key = next(line for line in upgrade if line.startswith("Sec-WebSocket-Key")).split(": ")[1]
        digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
        connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
        )
        for channel, said in ((STDOUT, b"hello"), (END, b'{"status": "Success"}')):
            connection.sendall(bytes([0x82, 1 + len(said), channel]) + said)
        stream.read(1)  # until the other side leaves
    return asked, upgrade


@pytest.mark.parametrize("login", ["", "me:p%40ss%3Aw%C3%B6rt@"])
def test_a_command_goes_through_the_proxy_that_requests_go_through(
    login: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "cluster.invalid")  # which a kubeconfig's does not heed
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as pool:
        listener.settimeout(20)  # who goes elsewhere is not waited for
        served = pool.submit(serve_through_proxy, listener)
        proxy = f"http://{login}127.0.0.1:{listener.getsockname()[1]}"
        api = open_api(write_kubeconfig(tmp_path / "kubeconfig", proxy))
        with RemoteCommand(api, "digits-files", ["list"]) as command:
            assert command.read() == b"hello"
        asked, upgrade = served.result(timeout=60)
    assert asked[0] == "CONNECT cluster.invalid:8001 HTTP/1.1"
    basic = base64.b64encode("me:p@ss:wört".encode()).decode()
    sent = [line for line in asked if line.startswith("Proxy-Authorization")]
    assert sent == ([f"Proxy-Authorization: Basic {basic}"] if login else [])
    assert upgrade[0].startswith("GET /api/v1/namespaces/team/pods/digits-files/exec?command=list")
    assert not any(line.startswith("Proxy-Authorization") for line in upgrade)


@pytest.mark.parametrize("login", ["", "me:secret@"])
def test_a_proxy_that_commands_cannot_go_through_is_said(login: str, tmp_path: Path) -> None:
    api = open_api(write_kubeconfig(tmp_path / "kubeconfig", f"https://{login}127.0.0.1:1"))
    with pytest.raises(ClusterError, match=r"proxy https://127\.0\.0\.1:1 is .*must be http$"):
        RemoteCommand(api, "digits-files", ["list"])


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "127.0.0.1:3128"])
def test_a_proxy_that_no_request_can_go_through_is_said(proxy: str, tmp_path: Path) -> None:
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", proxy)
    with pytest.raises(ClusterError, match=f"the proxy {proxy} cannot be used; want http://"):
        connect(Access("team", "", str(kubeconfig)))


@pytest.mark.usefixtures("clock")
def test_a_proxy_that_does_not_answer_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
    api = open_api(write_kubeconfig(tmp_path / "kubeconfig", proxy))
    with pytest.raises(ClusterError, match=r"8001 \(the proxy: \[Errno 111\] Connection refused\)"):
        api.select(PODS)
