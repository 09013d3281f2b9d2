"""How a cluster is reached: a kubeconfig, or the service account of the pod that this runs in.

The kubernetes package knows kubeconfigs with all their ways to log in. Its clients are not used:
manifests stay plain dicts, and what the server answers reaches `failures` as it was.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import urllib3

from clusterfit.launch.access import Access, find_context
from clusterfit.launch.failures import ClusterError

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


def connect(access: Access) -> Connection:
    """Read the kubeconfig and log in as it says.

    Raises:
        ClusterError: There is no kubeconfig, or it is wrong.
    """
    # Half a second of imports, needed only by commands that speak to a cluster.
    from kubernetes import client as kubernetes_client
    from kubernetes import config
    from kubernetes.config import ConfigException

    settings = kubernetes_client.Configuration()
    # A log that is followed is silent for hours: that the server is gone must show all the same.
    settings.keep_alive = True
    settings.connection_pool_maxsize = _MAX_CONNECTIONS
    try:
        with warnings.catch_warnings():
            # What is missing for a SOCKS proxy is said below.
            warnings.simplefilter("ignore", urllib3.exceptions.DependencyWarning)
            client = config.new_client_from_config(
                config_file=access.find_kubeconfig(),
                context=find_context(access) or None,
                persist_config=False,
                client_configuration=settings,
            )
    except ConfigException as error:
        said = str(error).strip().removeprefix("Invalid kube-config file. ").rstrip(".")
        if "No configuration found" in said:
            said = "there is no kubeconfig"
        raise ClusterError(
            f"no cluster: {said}; set KUBECONFIG, or give --kubeconfig and --context"
        ) from None
    except OSError as error:
        raise ClusterError(f"no cluster: the kubeconfig cannot be read: {error}") from None
    except (ImportError, urllib3.exceptions.HTTPError):
        # What speaks SOCKS is an extra of urllib3's, and of an address without http:// it says so.
        raise ClusterError(
            f"no cluster: the proxy {settings.proxy} cannot be used; want http://HOST:PORT"
        ) from None

    if not client.configuration.verify_ssl:
        # The kubeconfig says so; a warning for every request would bury what we have to say.
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)

    def read_headers() -> dict[str, str]:
        needed = client.configuration.auth_settings()
        return {auth["key"]: auth["value"] for auth in needed.values()}

    server = str(client.configuration.host).rstrip("/")
    return Connection(server, client.rest_client.pool_manager, read_headers, client)


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
    pool = urllib3.PoolManager(ca_certs=str(_ACCOUNT / "ca.crt"))

    def read_headers() -> dict[str, str]:
        # The kubelet renews the file; a token that is kept would expire within the hour.
        return {"authorization": f"Bearer {(_ACCOUNT / 'token').read_text().strip()}"}

    host = f"[{host}]" if ":" in host else host
    return Connection(f"https://{host}:{port}", pool, read_headers)
