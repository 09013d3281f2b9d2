"""A small HTTP server that answers as an API server may: as told, one answer after another."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from clusterfit.launch.access import Access
from clusterfit.launch.api import Api
from clusterfit.launch.connection import connect

RESET = -1
"""Instead of an HTTP status: the connection is reset."""


@dataclass
class Answer:
    """One answer: a status and a body; `status` RESET breaks the connection."""

    status: int
    body: Any = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class ApiServer:
    """Serves prepared answers in their order, the last one for ever, and keeps the requests."""

    answers: list[Answer]
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    kubeconfig: Path = Path()

    def open(self) -> Api:
        """Connect as every command does: through a kubeconfig."""
        access = Access("team", "", str(self.kubeconfig))
        return Api(lambda: connect(access), "team")


def status_body(message: str, reason: str = "") -> dict[str, Any]:
    return {"kind": "Status", "status": "Failure", "message": message, "reason": reason}


def reset_connection(handler: BaseHTTPRequestHandler) -> None:
    """Break the connection of a request instead of answering."""
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()
    handler.close_connection = True


def write_kubeconfig(path: Path, servers: Mapping[str, str], namespace: str = "") -> Path:
    """Write a kubeconfig with a context for each server's address, the first being the current one.

    Args:
        path: Where.
        servers: Addresses by the context's name.
        namespace: Of every context; left out where it is empty.
    """
    place = {"namespace": namespace} if namespace else {}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": next(iter(servers)),
        "contexts": [
            {"name": name, "context": {"cluster": name, "user": "me", **place}} for name in servers
        ],
        "clusters": [{"name": name, "cluster": {"server": at}} for name, at in servers.items()],
        "users": [{"name": "me", "user": {"token": "t"}}],
    }
    path.write_text(yaml.safe_dump(config))
    return path


class QuietHandler(BaseHTTPRequestHandler):
    """Keeps its connections and says nothing."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a body would wait 40 ms for its head to be acknowledged

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def listen(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Answer requests to 127.0.0.1 in a thread; yield the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    seconds = 0.01  # until it notices that it shall end
    thread = threading.Thread(target=server.serve_forever, args=(seconds,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serve(folder: Path, *answers: Answer) -> Iterator[ApiServer]:
    """Run a server on 127.0.0.1 and write a kubeconfig that leads to it."""
    state = ApiServer(list(answers))

    class Handler(QuietHandler):
        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            content = self.rfile.read(length)
            state.requests.append((self.command, self.path, json.loads(content or b"null")))
            answer = state.answers.pop(0) if len(state.answers) > 1 else state.answers[0]
            if answer.status == RESET:
                reset_connection(self)
                return
            body = answer.body
            text = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(answer.status)
            for name, value in ({"Content-Length": str(len(text))} | answer.headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815 - http.server's names

    with listen(Handler) as address:
        state.kubeconfig = write_kubeconfig(folder / "kubeconfig", {"test": address})
        yield state
