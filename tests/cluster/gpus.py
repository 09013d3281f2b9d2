"""GPUs that are counted by the scheduler and exist nowhere, and nodes that are only pretended."""

from __future__ import annotations

import json

from tests.cluster import programs
from tests.cluster.commands import Kubectl, wait_for
from tests.cluster.components import Components
from tests.cluster.node import NODE_NAME
from tests.cluster.paths import Cache, State

GPU_RESOURCE = "nvidia.com/gpu"
PRETENDED = {"clusterfit.test/pretended": "true"}


def set_gpus(kubectl: Kubectl, count: int, node: str = NODE_NAME) -> None:
    """Let a node offer GPUs. The kubelet keeps the number until it is restarted.

    Args:
        kubectl: The administrator's.
        count: How many GPUs; work that is given them still runs on the CPU.
        node: Which node.
    """
    patch = {
        "status": {
            "capacity": {GPU_RESOURCE: str(count)},
            "allocatable": {GPU_RESOURCE: str(count)},
        }
    }

    def offered() -> str:
        # The kubelet computes allocatable anew from capacity, so the patch is repeated until both agree.
        kubectl(
            "patch",
            "node",
            node,
            "--subresource=status",
            "--type=merge",
            f"--patch={json.dumps(patch)}",
        )
        allocatable = kubectl.get("node", node)["status"]["allocatable"]
        return str(allocatable.get(GPU_RESOURCE, "none"))

    wait_for(
        f"{node} offers {count} GPUs",
        offered,
        lambda value: value == str(count),
        timeout_seconds=60,
    )


def start_pretender(cache: Cache, state: State, components: Components) -> None:
    """Start kwok, which plays the kubelet of nodes that have none: it keeps them Ready and calls their pods Running."""
    programs.build(cache, programs.KWOK)
    components.start(
        "kwok",
        [
            programs.KWOK.path(cache),
            f"--kubeconfig={state.kubeconfig}",
            "--manage-all-nodes=false",
            "--manage-nodes-with-label-selector="
            + ",".join(f"{key}={value}" for key, value in PRETENDED.items()),
            "--node-ip=127.0.0.1",
        ],
    )


def add_pretended_nodes(kubectl: Kubectl, count: int, gpus: int) -> list[str]:
    """Add nodes with GPUs; pods scheduled to them count as running and run nothing.

    Returns:
        Their names. `kubectl delete node NAME` removes one.
    """
    names = [f"pretended-{index}" for index in range(count)]
    resources = {
        "cpu": "64",
        "memory": "512Gi",
        "pods": "110",
        "ephemeral-storage": "1Ti",
        GPU_RESOURCE: str(gpus),
    }
    kubectl.apply(
        *(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name, "labels": {**PRETENDED, "kubernetes.io/hostname": name}},
            }
            for name in names
        )
    )
    for name in names:
        patch = {"status": {"capacity": resources, "allocatable": resources}}
        kubectl(
            "patch",
            "node",
            name,
            "--subresource=status",
            "--type=merge",
            f"--patch={json.dumps(patch)}",
        )
    selector = ",".join(f"{key}={value}" for key, value in PRETENDED.items())
    kubectl("wait", "nodes", f"--selector={selector}", "--for=condition=Ready", "--timeout=90s")
    return names
