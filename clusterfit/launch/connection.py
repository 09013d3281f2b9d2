"""How a cluster is reached: a kubeconfig, or the service account of the pod that this runs in.

The kubernetes package knows kubeconfigs with all their ways to log in. Its clients are not used:
manifests stay plain dicts, and what the server answers reaches `failures` as it was.
"""

from __future__ import annotations

import os
import ssl
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import urllib3
from urllib3.util.ssl_ import create_urllib3_context

from clusterfit.launch.access import Access
from clusterfit.launch.failures import ClusterError
from clusterfit.launch.login import log_in, read_credentials

_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_MAX_CONNECTIONS: Final = 1024
"""The logs of so many pods can be followed; of each beyond it urllib3 would speak, on stderr."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A server, and how to speak to it."""

    server: str
    """Its address, without a slash at the end."""
    pool: Any
    """A urllib3 pool manager that holds certificates."""
    read_headers: Callable[[], dict[str, str]]
    """The headers that authenticate a request; asked for each, because tokens change."""
    websocket: Any = None
    """The kubernetes package's client, for commands in pods; None inside a pod."""
    proxy_login: tuple[str, str] | None = field(default=None, repr=False)
    """The user and the password for the proxy that the pool goes through, where it wants them."""


def connect(access: Access) -> Connection:
    """Read the kubeconfig and log in as it says.

    Raises:
        NoLoginError: The login fails.
        ClusterError: There is no kubeconfig, or it is wrong.
    """
    # Half a second of imports, needed only by commands that speak to a cluster.
    from kubernetes import client as kubernetes_client

    settings = kubernetes_client.Configuration()
    # A log that is followed is silent for hours: that the server is gone must show all the same.
    settings.keep_alive = True
    settings.connection_pool_maxsize = _MAX_CONNECTIONS
    settings.proxy = None  # the environment's, so that a kubeconfig's shows
    log_in(access, settings)
    try:
        proxy_login = _choose_proxy(settings)
        with warnings.catch_warnings():
            # What is missing for a SOCKS proxy is said below.
            warnings.simplefilter("ignore", urllib3.exceptions.DependencyWarning)
            client = kubernetes_client.ApiClient(settings)
    except (ImportError, urllib3.exceptions.HTTPError):
        # What speaks SOCKS is an extra of urllib3's, and of an address without http:// it says so.
        shown = str(settings.proxy).rpartition("@")[2]  # before it there may be a password
        raise ClusterError(
            f"no cluster: the proxy {shown} cannot be used; want http://HOST:PORT"
        ) from None

    server, pool = str(settings.host).rstrip("/"), client.rest_client.pool_manager
    if server.startswith("https"):
        try:
            context = _open_tls(settings.ssl_ca_cert, is_verified=settings.verify_ssl)
            if settings.cert_file:
                # With no password given, OpenSSL would ask for that of a locked key.
                context.load_cert_chain(settings.cert_file, settings.key_file, password="")
        except OSError as error:
            raise ClusterError(
                f"no cluster: a certificate of the kubeconfig cannot be used: {error}"
            ) from None
        # They are in the context; urllib3 would read them into it again for each connection.
        read = dict.fromkeys(("ca_certs", "cert_file", "key_file"))
        pool.connection_pool_kw.update(read, ssl_context=context)
    if not settings.verify_ssl:
        # The kubeconfig says so; a warning for every request would bury what we have to say.
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)

    def read_headers() -> dict[str, str]:
        return read_credentials(settings)

    return Connection(server, pool, read_headers, client, proxy_login)


def connect_from_pod() -> Connection:
    """Use the service account of this pod.

    Raises:
        ClusterError: This is no pod, or it has no token.
    """
    host, port = (
        os.environ.get("KUBERNETES_SERVICE_HOST"),
        os.environ.get("KUBERNETES_SERVICE_PORT"),
    )
    if not host or not (_ACCOUNT / "token").exists():
        raise ClusterError("no cluster: this is not a pod with a service account's token")
    authority = str(_ACCOUNT / "ca.crt")
    try:
        context = _open_tls(authority)
    except OSError as error:
        raise ClusterError(f"no cluster: {authority} cannot be used: {error}") from None
    # The kubelet renews this file too, and so it is read again for each connection.
    pool = urllib3.PoolManager(ca_certs=authority, ssl_context=context)

    def read_headers() -> dict[str, str]:
        # The kubelet renews the file; a token that is kept would expire within the hour.
        return {"authorization": f"Bearer {(_ACCOUNT / 'token').read_text().strip()}"}

    host = f"[{host}]" if ":" in host else host
    return Connection(f"https://{host}:{port}", pool, read_headers)


def _open_tls(authority: str | None, *, is_verified: bool = True) -> ssl.SSLContext:
    """Return how to speak TLS to a server whose certificate this authority has signed.

    Raises:
        OSError: The authority's certificate cannot be read.
    """
    context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED if is_verified else ssl.CERT_NONE)
    # From Python 3.13 on it is set, and refuses the certificates of clusters that were made by
    # older tools: they lack key identifiers, which kubectl does not ask for. What is signed by
    # whom, dates and names are verified without it. https://github.com/python/cpython/issues/107361
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if authority:
        context.load_verify_locations(authority)
    else:
        context.load_default_certs()
    return context


def _choose_proxy(settings: Any) -> tuple[str, str] | None:
    """Set the proxy that leads to the server; return the user and the password that it wants.

    Raises:
        HTTPError: What should be its address is none.
    """
    from kubernetes import client as kubernetes_client

    if settings.proxy:
        # The kubeconfig says it, and as with kubectl NO_PROXY does not count then.
        settings.no_proxy = ""
    else:
        settings.proxy = kubernetes_client.Configuration(settings.host).proxy
    proxy = urllib3.util.parse_url(settings.proxy or "")
    if proxy.scheme not in ("http", "https") or not proxy.auth:
        return None
    # urllib3 does not read them off the address; and an address may be printed.
    settings.proxy = proxy._replace(auth=None).url
    # It writes Latin-1, one byte for each character: so the bytes are those that are meant.
    joined = unquote(proxy.auth, encoding="latin-1")
    settings.proxy_headers = urllib3.make_headers(proxy_basic_auth=joined)
    user, _, password = proxy.auth.partition(":")
    return unquote(user), unquote(password)
