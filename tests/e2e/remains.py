"""What tests that were killed leave in a cluster that stays: the next ones must not find it."""

from __future__ import annotations

import sys

from tests.cluster import addons, gpus
from tests.cluster.cluster import DEFAULT_GPUS, Cluster
from tests.cluster.commands import Kubectl
from tests.cluster.namespace import Namespace
from tests.cluster.node import NODE_NAME
from tests.cluster.paths import CHECKOUT
from tests.cluster.processes import is_alive, this_process

POLICY = CHECKOUT / "k8s/prerequisites/supervisor-policy.yaml"

_PROCESS_LABEL = "clusterfit.test/process"


def label(process: dict[str, int]) -> dict[str, str]:
    """Return the label of what goes with a process."""
    return {_PROCESS_LABEL: f"{process['pid']}-{process['start_time']}"}


def sign(kubectl: Kubectl, namespace: str) -> None:
    """Let a namespace with a name of its own go as well, should these tests be killed."""
    for key, value in label(this_process()).items():
        kubectl("label", "namespace", namespace, f"{key}={value}", "--overwrite")


def remove_remains(cluster: Cluster) -> None:
    """Where tests were killed, bring the cluster back to how the harness starts it.

    Those that are alive keep what they have: several may use a cluster that stays.
    """
    kubectl = cluster.kubectl
    left = [
        item["metadata"]["name"]
        for item in kubectl.get("namespaces", f"--selector={_PROCESS_LABEL}")["items"]
        if not is_alive(*map(int, item["metadata"]["labels"][_PROCESS_LABEL].split("-")))
    ]
    if not left:
        return
    print(f"removing what killed tests have left: {', '.join(left)}", file=sys.stderr, flush=True)
    cluster.disable_kueue()
    addons.apply_training_operator(cluster.cache, kubectl)
    addons.wait_for_training_operator(kubectl)
    kubectl("delete", f"--filename={POLICY}", "--ignore-not-found")
    cluster.forget_pretended_nodes()
    kubectl("uncordon", NODE_NAME)
    gpus.set_gpus(kubectl, DEFAULT_GPUS)
    for name in left:
        Namespace(name, Kubectl(kubectl.kubeconfig, kubectl.program, name), "").delete()
