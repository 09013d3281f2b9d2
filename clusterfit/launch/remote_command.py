"""A command in a running pod, with its standard streams, over a websocket.

Source of the protocol, v4.channel.k8s.io: each message begins with the number of its channel.
https://kubernetes.io/docs/reference/generated/kubernetes-api/v1.34/#-strong-connect-exec-strong-
"""

from __future__ import annotations

import contextlib
import io
import json
import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlencode

from urllib3.util import Url

from clusterfit.launch.api import PODS, Api
from clusterfit.launch.connection import Connection
from clusterfit.launch.failures import ClusterError, explain_answer
from clusterfit.launch.patience import Patience

_PROTOCOL: Final = "v4.channel.k8s.io"
_STDIN, _STDOUT, _STDERR, _END = range(4)
_TIMEOUT_SECONDS: Final = 300
_LAST_WORDS_SECONDS: Final = 5
_FRAME_BYTES: Final = 1 << 20
"""Servers refuse messages of more than some tens of megabytes."""


class CommandFailedError(ClusterError):
    """The command ended badly; its own words are the message."""

    def __init__(self, said: str, status: int) -> None:
        """Keep what it said and its exit status, 1 where the cluster does not tell."""
        super().__init__(f"in the pod: {said}")
        self.status = status


class _BrokenError(ClusterError):
    """The connection is gone."""


class RemoteCommand(io.RawIOBase):
    """The command as a file: written bytes are its input, read bytes its output."""

    def __init__(self, api: Api, pod: str, command: Sequence[str]) -> None:
        """Start the command.

        Raises:
            ClusterError: The cluster refuses it.
        """
        # Part of what the kubernetes package is installed with; a tenth of a second to import.
        import websocket

        self._what = f"run a command in pod {pod} (create pods/exec)"
        self._lost = websocket.WebSocketException
        query = [("command", part) for part in command]
        query += [("stdin", "true"), ("stdout", "true"), ("stderr", "true")]
        path = f"{PODS.path(api.namespace)}/{pod}/exec?{urlencode(query)}"
        patience = Patience(api.log_in_again)
        while True:
            try:
                self._socket = _connect(api.connection, path)
                break
            except websocket.WebSocketBadStatusException as error:
                # The command was not started, so it may be asked for again.
                refused = explain_answer(error.status_code, error.resp_body or b"", self._what)
                if not patience.covers(error.status_code, refused):
                    raise refused from None
            except (websocket.WebSocketException, OSError) as error:
                raise ClusterError(f"{self._what}: {error}") from None
            patience.wait()
        self._waiting = b""
        self._errors = b""
        self._ended = False
        self._failure: ClusterError | None = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the command; it ends when its input does."""
        self._socket.close()

    def readable(self) -> bool:
        """Output can be read."""
        return True

    def writable(self) -> bool:
        """Input can be written."""
        return True

    def write(self, content: Any) -> int:
        """Send input.

        Raises:
            CommandFailedError: The command ended, and said why.
            ClusterError: The connection broke.
        """
        if self._failure is not None:  # a buffer or an archive that is closed writes its rest
            raise self._failure
        whole = bytes(content)
        try:
            for first in range(0, len(whole), _FRAME_BYTES):
                piece = whole[first : first + _FRAME_BYTES]
                self._socket.send_binary(bytes([_STDIN]) + piece)
        except (self._lost, OSError) as error:
            broken = ClusterError(f"{self._what}: the connection broke: {error}")
            self._failure = self._find_failure() or broken
            raise self._failure from None
        return len(whole)

    def readinto(self, buffer: Any) -> int:
        """Receive output; 0 at its end.

        Raises:
            CommandFailedError: The command failed, and said why.
            ClusterError: The connection broke.
        """
        while not self._waiting and not self._ended:
            self._receive()
        piece = self._waiting[: len(buffer)]
        buffer[: len(piece)] = piece
        self._waiting = self._waiting[len(piece) :]
        return len(piece)

    def _find_failure(self) -> ClusterError | None:
        """Return what the command said as it ended, where that has come before the break."""
        self._socket.settimeout(_LAST_WORDS_SECONDS)
        with contextlib.suppress(_BrokenError):
            try:
                while not self._ended:
                    self._receive()
            except CommandFailedError as failure:
                return failure
        return None

    def _receive(self) -> None:
        try:
            message = self._socket.recv()
        except (self._lost, OSError) as error:
            raise _BrokenError(f"{self._what}: the connection broke: {error}") from None
        if not message:
            raise _BrokenError(f"{self._what}: the connection was closed")
        content = message if isinstance(message, bytes) else message.encode()
        channel, piece = content[0], content[1:]
        if channel == _STDOUT:
            self._waiting += piece
        elif channel == _STDERR:
            self._errors += piece
        elif channel == _END:
            self._ended = True
            status = json.loads(piece)
            if status.get("status") != "Success":
                said = self._errors.decode(errors="replace").strip() or status.get("message", "")
                raise CommandFailedError(said, _read_exit_status(status))


def _read_exit_status(status: dict[str, Any]) -> int:
    for cause in (status.get("details") or {}).get("causes") or ():
        if cause.get("reason") == "ExitCode" and str(cause.get("message", "")).isdigit():
            return int(cause["message"])
    return 1


def _connect(connection: Connection, path: str) -> Any:
    """Return a websocket that speaks the protocol to a path of the server.

    Raises:
        OSError: The proxy is one that cannot be used.
    """
    import websocket

    return websocket.create_connection(
        f"{connection.server.replace('http', 'ws', 1)}{path}",
        header=[f"{name}: {value}" for name, value in connection.read_headers().items()],
        subprotocols=[_PROTOCOL],
        sslopt=_read_tls(connection.websocket),
        timeout=_TIMEOUT_SECONDS,
        **_read_proxy(connection.pool.proxy, connection.proxy_login),
    )


def _read_proxy(proxy: Url | None, login: tuple[str, str] | None) -> dict[str, Any]:
    """Return what leads through the proxy that requests go through, whatever the host is called."""
    if proxy is None:
        return {}
    if proxy.scheme != "http":
        raise OSError(f"the proxy {proxy} is reached by {proxy.scheme}; here it must be http")
    return {
        "http_proxy_host": proxy.host,
        "http_proxy_port": proxy.port,
        "http_proxy_auth": login,
        "http_no_proxy": [""],
    }


def _read_tls(client: Any) -> dict[str, Any]:
    configuration = client.configuration
    given = {
        "ca_certs": configuration.ssl_ca_cert,
        "certfile": configuration.cert_file,
        "keyfile": configuration.key_file,
        "server_hostname": configuration.tls_server_name,
    }
    required = ssl.CERT_REQUIRED if configuration.verify_ssl else ssl.CERT_NONE
    return {"cert_reqs": required} | {key: value for key, value in given.items() if value}
