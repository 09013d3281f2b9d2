"""GPUs that are counted by the scheduler and exist nowhere, and nodes that are only pretended."""

from __future__ import annotations

import json

from tests.cluster import programs
from tests.cluster.commands import Kubectl, wait_for
from tests.cluster.components import Components
from tests.cluster.node import NODE_NAME
from tests.cluster.paths import Cache, State

GPU_RESOURCE = "nvidia.com/gpu"
PRETENDED = "clusterfit.test/pretended"


def set_gpus(kubectl: Kubectl, count: int, node: str = NODE_NAME) -> None:
    """Let a node offer GPUs. The kubelet keeps the number until it is restarted.

    Args:
        kubectl: The administrator's.
        count: How many GPUs; work that is given them still runs on the CPU.
        node: Which node.
    """
    offer = {GPU_RESOURCE: str(count)}

    def offered() -> str:
        # The kubelet computes allocatable anew from capacity: patch until it has come to agree.
        patch_status(kubectl, node, {"capacity": offer, "allocatable": offer})
        allocatable = kubectl.get("node", node)["status"]["allocatable"]
        return str(allocatable.get(GPU_RESOURCE, "none"))

    wait_for(f"{node} offers {count} GPUs", offered, lambda value: value == str(count))


def start_pretender(cache: Cache, state: State, components: Components) -> None:
    """Start kwok, which plays the kubelet of nodes that have none."""
    programs.build(cache, programs.KWOK)
    components.start(
        "kwok",
        [
            programs.KWOK.path(cache),
            f"--kubeconfig={state.kubeconfig}",
            "--manage-all-nodes=false",
            f"--manage-nodes-with-label-selector={PRETENDED}=true",
            "--node-ip=127.0.0.1",
        ],
    )


def add_pretended_nodes(kubectl: Kubectl, count: int, gpus: int) -> list[str]:
    """Add nodes with GPUs; pods scheduled to them count as running and run nothing.

    Returns:
        Their names.
    """
    names = [f"pretended-{index}" for index in range(count)]
    resources = {"cpu": "64", "memory": "512Gi", "pods": "110", GPU_RESOURCE: str(gpus)}
    for name in names:
        labels = {PRETENDED: "true", "kubernetes.io/hostname": name}
        metadata = {"name": name, "labels": labels}
        kubectl.apply({"apiVersion": "v1", "kind": "Node", "metadata": metadata})
        patch_status(kubectl, name, {"capacity": resources, "allocatable": resources})
    selector = f"--selector={PRETENDED}=true"
    kubectl("wait", "nodes", selector, "--for=condition=Ready", "--timeout=90s")
    return names


def remove_pretended_nodes(kubectl: Kubectl) -> None:
    """Remove the pretended nodes. Their pods go first: nobody would be left to end them."""
    selector = f"--selector={PRETENDED}=true"
    for node in kubectl("get", "nodes", selector, "--output=name").split():
        on_it = f"--field-selector=spec.nodeName={node.removeprefix('node/')}"
        kubectl("cordon", node)
        kubectl("delete", "pods", "--all-namespaces", on_it, "--force", "--grace-period=0")
        kubectl("delete", node)


def patch_status(kubectl: Kubectl, node: str, status: dict[str, dict[str, str]]) -> None:
    """Change what a node says of itself."""
    patch = json.dumps({"status": status})
    kubectl("patch", "node", node, "--subresource=status", "--type=merge", f"--patch={patch}")
