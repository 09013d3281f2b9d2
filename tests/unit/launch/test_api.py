"""What becomes of every way in which an API server does not do what it was asked."""

from __future__ import annotations

import re
import shlex
import socket
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import urllib3

from clusterfit.launch.access import Access, resolve_access
from clusterfit.launch.api import CONFIG_MAPS, PODS, PYTORCHJOBS, Api, LogBrokenError
from clusterfit.launch.connection import Connection, connect
from clusterfit.launch.failures import (
    AlreadyExistsError,
    ClusterError,
    DeniedError,
    NoLoginError,
    NotFoundError,
    NotPermittedError,
    RefusedError,
)
from tests.unit.conftest import Clock

from .api_server import RESET, Answer, serve, status_body, write_kubeconfig

FORBIDDEN = (
    'pods is forbidden: User "ann" cannot list resource "pods" in API group "" in the namespace '
    '"team"'
)
NOBODY = FORBIDDEN.replace('"ann"', '"system:anonymous"')
NO_NAMESPACE = 'namespaces "team" not found'
PSA = 'pods "x" is forbidden: violates PodSecurity "restricted:latest": privileged'
QUOTA = (
    'pods "x" is forbidden: exceeded quota: gpus, requested: nvidia.com/gpu=8, used: 0, limited: 4'
)


pytestmark = pytest.mark.usefixtures("clock")


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (401, status_body("Unauthorized"), NotPermittedError, "log in again"),
        (403, status_body(NOBODY), NoLoginError, "log in again"),
        (403, status_body(FORBIDDEN), NotPermittedError, "ann may not list pods in namespace team"),
        (403, status_body(PSA), DeniedError, "Pod Security refuses it: PodSecurity"),
        (403, status_body(QUOTA), DeniedError, "exceeded quota: gpus"),
        (404, status_body(NO_NAMESPACE, "NotFound"), NotFoundError, "namespace team: not found"),
        (409, status_body("exists", "AlreadyExists"), AlreadyExistsError, "exists"),
        (422, status_body("spec.x: wrong", "Invalid"), RefusedError, "spec.x: wrong"),
        (429, status_body("busy"), ClusterError, "overloaded"),
        (500, status_body("etcd is away"), ClusterError, "answered 500: etcd is away"),
        (502, b"<html>bad gateway</html>", ClusterError, "answered 502: <html>bad gateway</html>"),
    ],
)
def test_an_error_is_one_line_that_says_what_to_do(
    status: int, body: Any, kind: type[ClusterError], words: str, tmp_path: Path
) -> None:
    with serve(tmp_path, Answer(status, body)) as server, pytest.raises(ClusterError) as failure:
        server.open().select(PODS)
    assert type(failure.value) is kind
    assert words in str(failure.value)
    assert "\n" not in str(failure.value)


def test_a_missing_operator_is_named(tmp_path: Path) -> None:
    with (
        serve(tmp_path, Answer(404, b"404 page not found\n")) as server,
        pytest.raises(ClusterError, match="install the Kubeflow training operator"),
    ):
        server.open().select(PYTORCHJOBS)


def test_a_missing_object_is_none(tmp_path: Path) -> None:
    with serve(tmp_path, Answer(404, status_body("not found", "NotFound"))) as server:
        assert server.open().find(CONFIG_MAPS, "x") is None


@pytest.mark.parametrize("status", [RESET, 429, 500, 503])
def test_a_server_that_is_briefly_away_is_asked_again(status: int, tmp_path: Path) -> None:
    trouble = [Answer(status, status_body("wait"), {"Retry-After": "0"})] * 2
    with serve(tmp_path, *trouble, Answer(200, {"items": [{"a": 1}]})) as server:
        assert server.open().select(PODS) == [{"a": 1}]
        assert len(server.requests) == 3


def test_a_server_that_is_gone_shows_on_a_silent_connection(tmp_path: Path) -> None:
    with serve(tmp_path, Answer(200, {"items": []})) as server:
        options = server.open().connection.pool.connection_pool_kw["socket_options"]
    assert (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1) in options


def test_retry_after_is_obeyed(tmp_path: Path, clock: Clock) -> None:
    busy = Answer(429, status_body("wait"), {"Retry-After": "0.7"})
    with serve(tmp_path, busy, Answer(200, {"items": []})) as server:
        server.open().select(PODS)
    assert clock.pauses == [pytest.approx(0.7, abs=0.05)]


def test_what_may_have_been_created_is_not_created_again(tmp_path: Path) -> None:
    with (
        serve(tmp_path, Answer(RESET), Answer(201)) as server,
        pytest.raises(ClusterError, match="no answer"),
    ):
        server.open().create(CONFIG_MAPS, {"metadata": {"name": "x"}})
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "sent"), [(401, 2), (429, 2), (503, 2), (500, 1), (502, 1), (504, 1)]
)
def test_only_what_was_refused_is_sent_to_be_created_again(
    status: int, sent: int, tmp_path: Path
) -> None:
    trouble = Answer(status, status_body("wait"), {"Retry-After": "0"})
    with serve(tmp_path, trouble, Answer(201, {})) as server:
        if sent == 1:
            with pytest.raises(ClusterError):
                server.open().create(CONFIG_MAPS, {"metadata": {"name": "x"}})
        else:
            server.open().create(CONFIG_MAPS, {"metadata": {"name": "x"}})
        assert [request[0] for request in server.requests] == ["POST"] * sent


def test_expired_credentials_are_read_anew_once(tmp_path: Path) -> None:
    expired = Answer(401, status_body("Unauthorized"))
    with serve(tmp_path, expired, Answer(200, {"items": []})) as server:
        server.open().select(PODS)
        assert len(server.requests) == 2


@pytest.mark.parametrize("is_lasting", [False, True])
def test_who_comes_as_nobody_has_lost_the_login(is_lasting: bool, tmp_path: Path) -> None:
    """A server that lets requests without credentials in answers 403 instead of 401."""
    nobody = Answer(403, status_body(NOBODY, "Forbidden"))
    with serve(tmp_path, nobody, nobody if is_lasting else Answer(200, {"items": []})) as server:
        if is_lasting:
            with pytest.raises(NotPermittedError, match="log in again"):
                server.open().select(PODS)
        else:
            assert server.open().select(PODS) == []
        assert len(server.requests) == 2


@pytest.mark.parametrize(("who", "sent"), [(NOBODY, 2), (FORBIDDEN, 1)])
def test_a_creation_is_sent_again_after_a_login_and_not_for_want_of_rights(
    who: str, sent: int, tmp_path: Path
) -> None:
    refused = Answer(403, status_body(who, "Forbidden"))
    with serve(tmp_path, refused) as server:
        with pytest.raises(NotPermittedError):
            server.open().create(CONFIG_MAPS, {"metadata": {"name": "x"}})
        assert [request[0] for request in server.requests] == ["POST"] * sent


def test_no_server_is_said_with_its_address(tmp_path: Path) -> None:
    with serve(tmp_path, Answer(200)) as server:
        access = Access("team", "", str(server.kubeconfig))
    api = Api(lambda: connect(access), "team")
    with pytest.raises(ClusterError, match=r"no answer from http://127.0.0.1:\d+ .*refused"):
        api.select(PODS)


def test_no_kubeconfig_is_said(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="there is no kubeconfig; set KUBECONFIG"):
        connect(Access("", "", str(tmp_path / "none")))


def test_an_unknown_context_is_said(tmp_path: Path) -> None:
    with (
        serve(tmp_path, Answer(200)) as server,
        pytest.raises(ClusterError, match=r"other.*--context"),
    ):
        connect(Access("", "other", str(server.kubeconfig)))


def test_the_namespace_is_the_contexts_or_default(tmp_path: Path) -> None:
    path = str(write_kubeconfig(tmp_path / "one", {"test": "http://127.0.0.1"}))
    assert resolve_access(Access("", "", path)) == Access("default", "", path)
    path = str(write_kubeconfig(tmp_path / "two", {"test": "http://127.0.0.1"}, namespace="mine"))
    assert resolve_access(Access("", "", path)).namespace == "mine"
    assert resolve_access(Access("x", "", path)).namespace == "x"


def test_of_several_kubeconfigs_the_first_that_says_something_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [
        tmp_path / "none",
        write_kubeconfig(tmp_path / "one", {"a": "http://127.0.0.1"}, namespace="first"),
        write_kubeconfig(tmp_path / "two", dict.fromkeys("ba", "http://127.0.0.2"), "second"),
    ]
    monkeypatch.setenv("KUBECONFIG", ":".join(map(str, paths)))
    assert resolve_access(Access()).namespace == "first"
    assert resolve_access(Access("", "b", "")).namespace == "second"
    assert connect(Access()).server == "http://127.0.0.1"
    assert connect(Access("", "b", "")).server == "http://127.0.0.2"


def test_the_logs_of_many_pods_are_read_at_once_without_a_word_of_connections(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    piece = b"x" * (1 << 16)
    with serve(tmp_path, Answer(200, 2 * piece)) as server:
        api = server.open()
        logs = [api.stream_log(f"pod-{number}", {"follow": "true"}) for number in range(200)]
        for log in logs:
            next(log)  # and its connection stays in use
        assert all(sum(map(len, log)) < len(2 * piece) for log in logs)
    assert [record.message for record in caplog.records if record.name.startswith("urllib3")] == []


def test_a_command_stays_in_the_context_in_which_it_began(tmp_path: Path) -> None:
    servers = {"a": "http://127.0.0.1", "b": "http://127.0.0.2"}
    path = write_kubeconfig(tmp_path / "config", servers)
    access = resolve_access(Access("", "", str(path)))
    write_kubeconfig(path, dict(reversed(servers.items())))  # kubectl config use-context b
    assert connect(access).server == "http://127.0.0.1"
    assert connect(resolve_access(Access("", "", str(path)))).server == "http://127.0.0.2"
    assert "--context" not in access.as_options(), "nobody has typed it"


def test_options_can_be_copied_into_a_shell(tmp_path: Path) -> None:
    path = tmp_path / "my cluster; prod"
    access = Access("team", "admin@prod (east)", str(path))
    words = shlex.split(access.as_options())
    assert words == ["-n", "team", "--context", "admin@prod (east)", "--kubeconfig", str(path)]
    api = Api(lambda: Connection("http://127.0.0.1", urllib3.PoolManager(), dict), "team")
    assert api.options == " -n team"


def test_a_context_that_is_not_there_is_said_beside_those_that_are(tmp_path: Path) -> None:
    path = str(write_kubeconfig(tmp_path / "one", dict.fromkeys("ab", "http://127.0.0.1")))
    for namespace in ("", "x"):
        with pytest.raises(
            ClusterError, match=r"no context c; the contexts are a, b; .* --context"
        ):
            resolve_access(Access(namespace, "c", path))


@pytest.mark.parametrize("text", ["- a list", "contexts: [{}]", "{", "contexts: [1]", "\0"])
def test_what_is_no_kubeconfig_is_said(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ClusterError, match=r"no cluster: .*config is no kubeconfig"):
        resolve_access(Access("", "", str(path)))
    with pytest.raises(ClusterError, match="the kubeconfig cannot be read"):
        resolve_access(Access("", "", str(tmp_path)))


def test_a_log_that_is_there_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kubelet that hangs keeps its connection open."""
    monkeypatch.setattr("clusterfit.launch.api._TIMEOUT", urllib3.Timeout(connect=5, read=0.2))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        api = Api(lambda: Connection(address, urllib3.PoolManager(), dict), "team")
        hang_ups = []

        def hang() -> None:
            connection, _ = server.accept()
            hang_ups.append(connection)
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhalf a")

        thread = threading.Thread(target=hang)
        thread.start()
        pieces = api.stream_log("x", {})
        assert next(pieces) == b"half a"
        with pytest.raises(LogBrokenError, match=r"the log of x broke off"):
            next(pieces)
        thread.join()
        hang_ups[0].close()


@pytest.mark.parametrize(("seconds", "is_off"), [(7200, True), (-7200, True), (2, False)])
def test_time_is_the_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int, is_off: bool
) -> None:
    """What one laptop writes down is compared by the supervisor, and by other laptops."""
    there = datetime.now(UTC) + timedelta(seconds=seconds)
    stamp = format_datetime(there, usegmt=True)
    monkeypatch.setattr(BaseHTTPRequestHandler, "date_time_string", lambda *_: stamp)
    with serve(tmp_path, Answer(200, {"items": []})) as server:
        api = server.open()
        assert abs(api.now() - datetime.now(UTC)) < timedelta(seconds=1), "nobody has told"
        api.select(PODS)
        assert abs(api.now() - there) < timedelta(seconds=30 if is_off else 5)
        assert (abs(api.now() - datetime.now(UTC)) > timedelta(seconds=60)) is is_off


@pytest.mark.parametrize("status", [200, 302])
def test_an_answer_that_is_not_kubernetes_is_told(status: int, tmp_path: Path) -> None:
    """A login page before the server, for example."""
    page = Answer(status, b"<html>log in</html>", {"Content-Type": "text/html"})
    with serve(tmp_path, page) as server:
        with pytest.raises(ClusterError) as failure:
            server.open().get(PODS, "x")
        assert re.fullmatch(
            r"get pods x in namespace team: http://127\.0\.0\.1:\d+ does not answer as Kubernetes "
            rf"does \(status {status}, text/html\); is it the API server, or does something before "
            r"it want a login\?",
            str(failure.value),
        )


def test_a_pause_until_a_date_is_not_counted(tmp_path: Path, clock: Clock) -> None:
    busy = Answer(503, b"busy", {"Retry-After": "Fri, 27 Nov 2026 12:00:00 GMT"})
    with serve(tmp_path, busy, Answer(200, {"kind": "Pod"})) as server:
        assert server.open().get(PODS, "x") == {"kind": "Pod"}
