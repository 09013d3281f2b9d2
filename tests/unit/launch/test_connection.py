"""How a cluster is reached: what logs in, whose certificate is taken, which proxy leads there."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import urllib3
import urllib3.util.ssl_
import yaml

from clusterfit.launch import connection as module
from clusterfit.launch.access import Access
from clusterfit.launch.api import CONFIG_MAPS, PODS, Api
from clusterfit.launch.connection import connect, connect_from_pod
from clusterfit.launch.failures import ClusterError, NoLoginError
from clusterfit.launch.remote_command import RemoteCommand

from .api_server import QuietHandler, listen, reset_connection

NOBODYS = "http://cluster.invalid:8001"
PASSWORD = "p@ss:wört"
AT_PROXY = "me:p%40ss%3Aw%C3%B6rt"
BASIC = f"Basic {base64.b64encode(f'me:{PASSWORD}'.encode()).decode()}"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def write_kubeconfig(
    folder: Path, user: dict[str, Any], server: str = NOBODYS, **cluster: Any
) -> Access:
    """Write a kubeconfig with one user and one cluster; return what leads to it."""
    path = folder / "kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "me", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "me"}}],
        "current-context": "test",
    }
    path.write_text(yaml.safe_dump(content))
    return Access("team", "", str(path))


def open_api(access: Access) -> Api:
    return Api(lambda: connect(access), "team")


V1 = "client.authentication.k8s.io/v1"


def login_by(folder: Path, program: str, *options: str) -> dict[str, Any]:
    """Return a user who logs in by a Python program."""
    path = folder / "login"
    path.write_text(f"#!{sys.executable}\n{program}")
    path.chmod(0o755)
    words = ["get-token", *options]
    return {"exec": {"apiVersion": V1, "command": str(path), "args": words}}


def give(**status: str) -> str:
    """Return the program that logs in with this."""
    return f"print({json.dumps({'apiVersion': V1, 'kind': 'ExecCredential', 'status': status})!r})"


EXPIRED = "import sys\nsys.exit('error: the session has expired.\\n\\nPlease log in\\tagain.\\n')"
LONG = "import sys\nsys.exit('x' * 1000)"


@contextmanager
def nothing_logs() -> Iterator[None]:
    """As in a command of ours, until the end; pytest does log."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger(), "handlers", [])
        yield
        assert logging.getLogger().handlers == []


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (EXPIRED, "process returned 1. error: the session has expired. Please log in again."),
        (LONG, f"process returned 1. {'x' * 280} ..."),
        (give(), "missing token or clientCertificateData field in plugin output"),
        (
            "print('{')",
            "failed to decode process output: Expecting property name enclosed in double quotes: "
            "line 2 column 1 (char 2)",
        ),
    ],
    ids=["it refuses", "it says much", "it gives nothing", "it gives no JSON"],
)  # fmt: skip
def test_a_login_command_that_fails_is_told_in_one_line(
    program: str, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    user = login_by(tmp_path, program, "--client-secret", "abc")
    with nothing_logs(), pytest.raises(NoLoginError) as failure:
        connect(write_kubeconfig(tmp_path, user))
    command = f"`{tmp_path}/login get-token ...`"
    wanted = f"no cluster: the kubeconfig's login command {command} failed: {said}"
    assert str(failure.value) == wanted
    assert failure.value.exit_code == 77, "as of a server that refuses the credentials"
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


def test_a_login_command_that_is_missing_is_told(tmp_path: Path) -> None:
    user = {"exec": {"apiVersion": V1, "command": "no-such-login", "args": None}}
    with pytest.raises(NoLoginError) as failure:
        connect(write_kubeconfig(tmp_path, user))
    assert str(failure.value) == (
        "no cluster: the kubeconfig's login command `no-such-login` failed: [Errno 2] No such "
        "file or directory: 'no-such-login'"
    )


@pytest.mark.parametrize(
    ("program", "more", "headers"),
    [
        (give(token="abc"), {}, {"authorization": "Bearer abc"}),
        (give(clientCertificateData="abc", clientKeyData="def"), {}, {}),
        (EXPIRED, {"username": "u", "password": "p"}, {"authorization": "Basic dTpw"}),
    ],
    ids=["by a token", "by a certificate", "by a password instead"],
)
def test_who_logs_in_is_let_through(
    program: str, more: dict[str, str], headers: dict[str, str], tmp_path: Path
) -> None:
    user = login_by(tmp_path, program) | more
    assert connect(write_kubeconfig(tmp_path, user)).read_headers() == headers


def test_a_token_that_is_not_renewed_in_time_is_left_to_the_server(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The package renews it minutes before it ends."""
    user = login_by(tmp_path, give(token="abc", expirationTimestamp="2026-01-01T00:00:00Z"))
    connection = connect(write_kubeconfig(tmp_path, user))
    login_by(tmp_path, EXPIRED)
    with nothing_logs():
        assert connection.read_headers() == {"authorization": "Bearer abc"}
    assert capfd.readouterr().err == ""
    login_by(tmp_path, give(token="def"))
    assert connection.read_headers() == {"authorization": "Bearer def"}


def oidc(issuer: str) -> dict[str, Any]:
    """Return a user whose token has expired; the issuer may renew it."""
    said = base64.urlsafe_b64encode(b'{"exp": 1}').decode().rstrip("=")
    settings = {
        "id-token": f"e30.{said}.sig", "refresh-token": "r", "client-id": "c",
        "client-secret": "s", "idp-issuer-url": issuer,
    }  # fmt: skip
    return {"auth-provider": {"name": "oidc", "config": settings}}


def answer(handler: QuietHandler, status: int, body: dict[str, str]) -> None:
    content = json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


class DenyingIssuer(QuietHandler):
    """Gives nobody a new token."""

    def do_GET(self) -> None:  # noqa: N802 - http.server's name
        answer(self, 200, {"token_endpoint": f"http://{self.headers['Host']}/token"})

    def do_POST(self) -> None:  # noqa: N802 - http.server's name
        self.rfile.read(int(self.headers["Content-Length"]))
        why = "the session\nhas expired"
        answer(self, 400, {"error": "invalid_grant", "error_description": why})


class BreakingIssuer(DenyingIssuer):
    """Is gone when it is asked for a new token."""

    def do_POST(self) -> None:  # noqa: N802 - http.server's name
        reset_connection(self)


@pytest.mark.parametrize(
    ("issuer", "why"),
    [
        (DenyingIssuer, "InvalidGrantError: (invalid_grant) the session has expired"),
        (BreakingIssuer, "ConnectionError: "),
        (None, "MaxRetryError: "),
    ],
)
def test_an_issuer_that_does_not_renew_a_token_is_told_in_one_line(
    issuer: type[QuietHandler] | None, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    with listen(issuer or QuietHandler) as address:
        access = write_kubeconfig(tmp_path, oidc(address))
        if issuer is not None:
            with pytest.raises(NoLoginError) as failure:
                connect(access)
    if issuer is None:
        with pytest.raises(NoLoginError) as failure:
            connect(access)
    said = str(failure.value)
    assert said.startswith(f"no cluster: the kubeconfig's login failed: {why}")
    assert "\n" not in said


def test_a_kubeconfig_that_leads_to_a_file_that_is_missing_is_told(tmp_path: Path) -> None:
    user = {"tokenFile": str(tmp_path / "token")}
    with pytest.raises(ClusterError, match=r"kubeconfig cannot be read: .*/token'$") as failure:
        connect(write_kubeconfig(tmp_path, user))
    assert not isinstance(failure.value, NoLoginError)


@dataclass(frozen=True)
class Authority:
    """Signs certificates as older tools did: without key identifiers, among others."""

    folder: Path

    @property
    def certificate(self) -> str:
        return str(self.folder / "ca.crt")

    def sign(self, name: str, names: str = "DNS:me") -> tuple[str, str]:
        """Return the paths of a certificate and its key."""
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        (self.folder / "names").write_text(f"subjectAltName={names}\n")
        new_key(self.folder, name, key, "-out", f"{name}.csr")
        openssl(
            self.folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
            "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", str(certificate),
        )  # fmt: skip
        return str(certificate), str(key)


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def new_key(folder: Path, name: str, key: Path, *words: str) -> None:
    (folder / "settings").write_text(
        "[req]\ndistinguished_name=name\n[name]\n[authority]\nbasicConstraints=CA:TRUE\n"
    )
    openssl(
        folder, "req", "-config", "settings", "-newkey", "rsa:2048", "-nodes", "-subj",
        f"/CN={name}", "-keyout", str(key), *words,
    )  # fmt: skip


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Authority]:
    """Two that have nothing to do with each other."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificates")

    def create(name: str) -> Authority:
        folder = tmp_path_factory.mktemp(name)
        ending = ("-x509", "-extensions", "authority", "-days", "2", "-out", "ca.crt")
        new_key(folder, name, folder / "ca.key", *ending)
        return Authority(folder)

    return create("one"), create("other")


@pytest.fixture
def _strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let urllib3 verify as it does with Python 3.13 and later."""
    create = urllib3.util.ssl_.create_urllib3_context

    def create_strict(*args: Any, **settings: Any) -> ssl.SSLContext:
        context = create(*args, **settings)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    for place in ("urllib3.connection", module.__name__):
        monkeypatch.setattr(f"{place}.create_urllib3_context", create_strict)


class TlsHandler(QuietHandler):
    """Answers every request with no pods, and every command with its success."""

    def do_GET(self) -> None:  # noqa: N802 - http.server's name
        key = self.headers.get("Sec-WebSocket-Key")
        if key is None:
            self.send_response(200)
            self.send_header("Content-Length", "13")
            self.end_headers()
            self.wfile.write(b'{"items": []}')
            return
        # Source of the handshake: RFC 6455, section 4.2.2.
        digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
        self.send_response(101)
        for name, value in {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Protocol": "v4.channel.k8s.io",
            "Sec-WebSocket-Accept": base64.b64encode(digest).decode(),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        said = b'\x03{"status": "Success"}'
        self.wfile.write(bytes([0x82, len(said)]) + said)
        self.close_connection = True


@contextmanager
def listen_with_tls(authority: Authority, *, asks: bool = False) -> Iterator[int]:
    """Serve as 127.0.0.1 and cluster.test, perhaps only who has a certificate; yield the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.sign("server", "IP:127.0.0.1,DNS:cluster.test"))
    context.load_verify_locations(authority.certificate)
    context.verify_mode = ssl.CERT_REQUIRED if asks else ssl.CERT_NONE

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """Say nothing of clients that leave."""

        def finish_request(self, request: Any, client_address: Any) -> None:
            # Here, and so in a thread of each: a handshake may take as long as the client likes.
            with context.wrap_socket(request, server_side=True) as wrapped:
                super().finish_request(wrapped, client_address)

    with Server(("127.0.0.1", 0), TlsHandler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def ask_and_run(access: Access) -> None:
    """Ask for pods, and run a command in one."""
    api = open_api(access)
    assert api.select(PODS) == []
    with RemoteCommand(api, "x", ["list"]) as command:
        assert command.read() == b""


@pytest.mark.usefixtures("_strict", "clock")
def test_a_certificate_without_key_identifiers_is_taken(
    tmp_path: Path, authorities: tuple[Authority, Authority], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As kubectl does."""
    own = {"certificate-authority": authorities[0].certificate}
    with listen_with_tls(authorities[0]) as port:
        with (
            urllib3.PoolManager(ca_certs=authorities[0].certificate) as strict,
            pytest.raises(urllib3.exceptions.SSLError, match="certificate verify failed"),
        ):
            strict.request("GET", f"https://127.0.0.1:{port}", retries=False)
        ask_and_run(write_kubeconfig(tmp_path, {}, f"https://127.0.0.1:{port}", **own))
        monkeypatch.setenv("SSL_CERT_FILE", authorities[0].certificate)  # one of the machine's own
        ask_and_run(write_kubeconfig(tmp_path, {}, f"https://127.0.0.1:{port}"))


@pytest.mark.usefixtures("_strict", "clock")
def test_who_signed_it_and_for_whom_is_verified_all_the_same(
    tmp_path: Path, authorities: tuple[Authority, Authority]
) -> None:
    own = {"certificate-authority": authorities[0].certificate}
    others = {"certificate-authority": authorities[1].certificate}
    with listen_with_tls(authorities[0]) as port:
        for host, cluster, why in (
            ("127.0.0.1", others, "self-signed certificate in"),
            ("127.0.0.1", {}, "self-signed certificate in"),
            ("localhost", own, "Hostname mismatch"),
            ("127.0.0.1", own | {"tls-server-name": "x.test"}, "Hostname mismatch"),
        ):
            api = open_api(write_kubeconfig(tmp_path, {}, f"https://{host}:{port}", **cluster))
            with pytest.raises(ClusterError, match=why):
                RemoteCommand(api, "x", ["list"])
            with pytest.raises(ClusterError, match=f"no answer .*{why}"):
                api.select(PODS)


@pytest.mark.usefixtures("_strict", "clock")
def test_a_server_may_go_by_another_name_or_by_none(
    tmp_path: Path, authorities: tuple[Authority, Authority]
) -> None:
    named = {
        "certificate-authority": authorities[0].certificate, "tls-server-name": "cluster.test"
    }  # fmt: skip
    with listen_with_tls(authorities[0]) as port:
        for cluster in (named, {"insecure-skip-tls-verify": True}):
            ask_and_run(write_kubeconfig(tmp_path, {}, f"https://localhost:{port}", **cluster))


@pytest.mark.usefixtures("_strict", "clock")
def test_a_certificate_logs_in(tmp_path: Path, authorities: tuple[Authority, Authority]) -> None:
    certificate, key = authorities[0].sign("me")
    user = {"client-certificate": certificate, "client-key": key}
    own = {"certificate-authority": authorities[0].certificate}
    with listen_with_tls(authorities[0], asks=True) as port:
        ask_and_run(write_kubeconfig(tmp_path, user, f"https://127.0.0.1:{port}", **own))
        nobody = open_api(write_kubeconfig(tmp_path, {}, f"https://127.0.0.1:{port}", **own))
        with pytest.raises(ClusterError, match="no answer"):
            nobody.select(PODS)


def test_a_key_with_a_password_is_told_and_not_asked_for(
    tmp_path: Path, authorities: tuple[Authority, Authority]
) -> None:
    certificate, key = authorities[0].sign("me")
    locked = str(tmp_path / "locked.key")
    openssl(tmp_path, "rsa", "-in", key, "-aes128", "-passout", "pass:x123", "-out", locked)
    user = {"client-certificate": certificate, "client-key": locked}
    with pytest.raises(ClusterError, match=r"^no cluster: a certificate of the kubeconfig cannot"):
        connect(write_kubeconfig(tmp_path, user, "https://127.0.0.1:1"))


@pytest.mark.usefixtures("_strict")
@pytest.mark.parametrize("is_verified", [True, False])
def test_only_strictness_is_left_out(is_verified: bool, tmp_path: Path) -> None:
    cluster = {} if is_verified else {"insecure-skip-tls-verify": True}
    access = write_kubeconfig(tmp_path, {}, "https://127.0.0.1:1", **cluster)
    settings = connect(access).pool.connection_pool_kw
    context = settings["ssl_context"]
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.verify_mode is (ssl.CERT_REQUIRED if is_verified else ssl.CERT_NONE)
    assert settings["cert_reqs"] is context.verify_mode
    assert context.check_hostname is is_verified


def enter_pod(folder: Path, authority: Path | str, port: int, monkeypatch: Any) -> Path:
    """Write the files of a pod's service account; return the authority's."""
    (folder / "token").write_text("t\n")
    shutil.copy(authority, folder / "ca.crt")
    monkeypatch.setattr(module, "_ACCOUNT", folder)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(port))
    return folder / "ca.crt"


@pytest.mark.usefixtures("_strict", "clock")
def test_a_pod_takes_it_too_and_an_authority_that_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authorities: tuple[Authority, Authority]
) -> None:
    with listen_with_tls(authorities[0]) as port:
        path = enter_pod(tmp_path, authorities[1].certificate, port, monkeypatch)
        connection = connect_from_pod()
        api = Api(lambda: connection, "team")
        context = connection.pool.connection_pool_kw["ssl_context"]
        assert not context.verify_flags & ssl.VERIFY_X509_STRICT
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        with pytest.raises(ClusterError, match=r"no answer .*self-signed certificate in"):
            api.select(PODS)
        shutil.copy(authorities[0].certificate, path)
        assert api.select(PODS) == []


def test_an_authority_that_is_none_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text"
    text.write_text("hello")
    place = tmp_path / "account"
    place.mkdir()
    path = enter_pod(place, text, 1, monkeypatch)
    with pytest.raises(ClusterError, match=f"^no cluster: {path} cannot be used: "):
        connect_from_pod()
    own = {"certificate-authority": str(text)}
    with pytest.raises(ClusterError, match=r"^no cluster: a certificate of the kubeconfig cannot"):
        connect(write_kubeconfig(tmp_path, {}, "https://127.0.0.1:1", **own))


@dataclass
class Proxy:
    """What was asked of a proxy, and with which credentials."""

    address: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def with_login(self) -> str:
        return self.address.replace("//", f"//{AT_PROXY}@")


@contextmanager
def serve_as_proxy() -> Iterator[Proxy]:
    """Play a proxy that leads nowhere, and answers itself that there are no objects."""
    proxy = Proxy()

    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802 - http.server's name
            self._answer(200)

        def do_CONNECT(self) -> None:  # noqa: N802 - http.server's name
            self._answer(407)

        def _answer(self, status: int) -> None:
            proxy.asked.append((self.path, self.headers.get("Proxy-Authorization")))
            self.send_response(status)
            self.send_header("Content-Length", "13")
            self.end_headers()
            self.wfile.write(b'{"items": []}')

    with listen(Handler) as proxy.address:
        yield proxy


def test_the_password_of_a_proxy_in_the_environment_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_as_proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.with_login())
        api = open_api(write_kubeconfig(tmp_path, {}))
        assert api.select(CONFIG_MAPS) == []
    assert proxy.asked == [(f"{NOBODYS}/api/v1/namespaces/team/configmaps", BASIC)]
    assert PASSWORD not in repr(api.connection)
    assert api.connection.pool.proxy.auth is None, "errors name its address"


@pytest.mark.usefixtures("clock")
def test_the_password_of_a_proxy_is_sent_before_a_tunnel_and_never_told(tmp_path: Path) -> None:
    server = "https://cluster.invalid:6443"
    with serve_as_proxy() as proxy:
        login = {"proxy-url": proxy.with_login()}
        with pytest.raises(ClusterError, match=r"the proxy: .*407") as failure:
            open_api(write_kubeconfig(tmp_path, {}, server, **login)).select(CONFIG_MAPS)
    assert set(proxy.asked) == {("cluster.invalid:6443", BASIC)}
    for secret in (PASSWORD, AT_PROXY, BASIC):
        assert secret not in str(failure.value)


def test_a_proxy_without_a_password_is_sent_none(tmp_path: Path) -> None:
    with serve_as_proxy() as proxy:
        named = {"proxy-url": proxy.address}
        assert open_api(write_kubeconfig(tmp_path, {}, **named)).select(CONFIG_MAPS) == []
    assert [login for _, login in proxy.asked] == [None]


@pytest.mark.parametrize("start", ["", "socks5://", "http://a:b:c/"])
def test_the_password_of_a_proxy_that_cannot_be_used_is_not_told(
    start: str, tmp_path: Path
) -> None:
    wrong = {"proxy-url": f"{start}me:secret@127.0.0.1:3128"}
    with pytest.raises(ClusterError, match=r"the proxy 127\.0\.0\.1:3128 cannot be used; want"):
        connect(write_kubeconfig(tmp_path, {}, **wrong))


@pytest.mark.parametrize("exception", ["*", "cluster.invalid", ".invalid"])
def test_the_kubeconfigs_proxy_has_no_exceptions_and_the_environments_has(
    exception: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with kubectl."""
    with serve_as_proxy() as proxy, serve_as_proxy() as other:
        monkeypatch.setenv("HTTP_PROXY", proxy.address)
        assert connect(write_kubeconfig(tmp_path, {})).pool.proxy is not None
        monkeypatch.setenv("NO_PROXY", exception)
        assert connect(write_kubeconfig(tmp_path, {})).pool.proxy is None
        for named in (other, proxy):
            access = write_kubeconfig(tmp_path, {}, **{"proxy-url": named.address})
            assert open_api(access).select(CONFIG_MAPS) == []
            assert len(named.asked) == 1
