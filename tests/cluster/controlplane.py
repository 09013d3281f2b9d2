"""etcd, API server, controller manager, scheduler: keys, tokens, command lines.

Made for tests only: one static token is the administrator, and data is not synced to disk.
"""

from __future__ import annotations

import json
import secrets

from tests.cluster import programs
from tests.cluster.commands import Kubectl, run
from tests.cluster.components import Components
from tests.cluster.network import NODE_ADDRESS, POD_RANGE, SERVICE_RANGE
from tests.cluster.paths import Cache, State, write_whole

ETCD_ADDRESS = "http://127.0.0.1:2379"
API_ADDRESS = f"https://{NODE_ADDRESS}:6443"


def start_etcd(cache: Cache, state: State, components: Components) -> None:
    """Start etcd; the API server waits for it by itself."""
    components.start(
        "etcd",
        [
            programs.ETCD.path(cache),
            f"--data-dir={state.root}/etcd",
            f"--listen-client-urls={ETCD_ADDRESS}",
            f"--advertise-client-urls={ETCD_ADDRESS}",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--unsafe-no-fsync",  # a test cluster's data need not survive a power cut
            "--log-level=warn",
        ],
    )


def start_api_server(cache: Cache, state: State, components: Components) -> Kubectl:
    """Start the API server and wait until it is ready; it makes its own serving certificate."""
    keys = state.root / "keys"
    keys.mkdir(mode=0o700)
    account_key = keys / "service-accounts.key"
    run(["openssl", "genrsa", "-out", account_key, "2048"])
    token = secrets.token_hex(16)
    write_whole(keys / "tokens.csv", f"{token},admin,admin,system:masters\n", mode=0o600)
    components.start(
        "kube-apiserver",
        [
            programs.APISERVER.path(cache),
            f"--advertise-address={NODE_ADDRESS}",
            f"--etcd-servers={ETCD_ADDRESS}",
            f"--cert-dir={keys}",
            f"--token-auth-file={keys}/tokens.csv",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={account_key}",
            f"--service-account-signing-key-file={account_key}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--allow-privileged=true",
            # The node's name means nothing outside the cluster.
            "--kubelet-preferred-address-types=InternalIP",
            "--shutdown-delay-duration=0s",
        ],
    )
    kubectl = Kubectl(state.kubeconfig, programs.KUBECTL.path(cache))

    def look() -> str:
        certificate = keys / "apiserver.crt"
        write_whole(state.kubeconfig, render_kubeconfig(str(certificate), token), mode=0o600)
        return kubectl("get", "--raw=/readyz", timeout_seconds=10)

    components.wait_until_ready("kube-apiserver", look)
    # The certificate goes into the kubeconfig, so that the one file can be copied and used
    # elsewhere.
    kubectl(
        "config",
        "set-cluster",
        "clusterfit",
        f"--certificate-authority={keys}/apiserver.crt",
        "--embed-certs",
    )
    return kubectl


def start_controllers(cache: Cache, state: State, components: Components) -> None:
    """Start the controller manager and the scheduler."""
    keys = state.root / "keys"
    components.start(
        "kube-controller-manager",
        [
            programs.CONTROLLER_MANAGER.path(cache),
            f"--kubeconfig={state.kubeconfig}",
            f"--root-ca-file={keys}/apiserver.crt",
            f"--service-account-private-key-file={keys}/service-accounts.key",
            "--use-service-account-credentials",
            f"--cluster-cidr={POD_RANGE}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--cert-dir={keys}",
        ],
    )
    components.start(
        "kube-scheduler",
        [
            programs.SCHEDULER.path(cache),
            f"--kubeconfig={state.kubeconfig}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--cert-dir={keys}",
        ],
    )


def render_kubeconfig(certificate: str, token: str) -> str:
    """Write an administrator's kubeconfig (as JSON, which is YAML)."""
    name = "clusterfit"
    cluster = {"server": API_ADDRESS, "certificate-authority": certificate}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    return json.dumps(config, indent=2)
