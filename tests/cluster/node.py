"""The node: kubelet and kube-proxy.

The settings hold on cgroup v1 and v2, and without the capability to lower a process'
out-of-memory score.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.cluster import cgroups, programs
from tests.cluster.components import Components
from tests.cluster.containerd import socket
from tests.cluster.network import NODE_ADDRESS, POD_RANGE
from tests.cluster.paths import Cache, State

NODE_NAME = "clusterfit-node"


def start_kubelet(cache: Cache, state: State, components: Components) -> None:
    """Start the kubelet; it registers the node."""
    resolver = state.config / "resolv.conf"
    resolver.write_text(f"nameserver {NODE_ADDRESS}\n")
    config = write_config(state, "kubelet", kubelet_config(state, resolver))
    components.start(
        "kubelet",
        [
            programs.KUBELET.path(cache),
            f"--config={config}",
            f"--kubeconfig={state.kubeconfig}",
            f"--root-dir={state.root}/kubelet",
            f"--cert-dir={state.root}/kubelet-keys",
            f"--hostname-override={NODE_NAME}",
            f"--node-ip={NODE_ADDRESS}",
        ],
    )


def kubelet_config(state: State, resolver: Path) -> dict[str, Any]:
    """Say what the kubelet is to do on a node that is a namespace of somebody's computer."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{socket(state)}",
        "podLogsDir": str(state.pod_logs),
        "volumePluginDir": str(state.root / "kubelet-plugins"),
        "resolvConf": str(resolver),
        "clusterDNS": [NODE_ADDRESS],
        "clusterDomain": "cluster.local",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroups.NAME}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        # The disk is the computer's own: how full it is must not decide over pods and images here.
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
            "imagefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        # A secret that an operator fills after its pod has started shows up in the pod at the next
        # sync.
        "syncFrequency": "5s",
        # Only the machine and its pods can reach this port.
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
    }


def start_kube_proxy(cache: Cache, state: State, components: Components) -> None:
    """Start kube-proxy, which is told to leave the computer's connection tracking as it is."""
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": str(state.kubeconfig)},
        "clusterCIDR": POD_RANGE,
        "hostnameOverride": NODE_NAME,
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    }
    path = write_config(state, "kube-proxy", config)
    components.start("kube-proxy", [programs.KUBE_PROXY.path(cache), f"--config={path}"])


def write_config(state: State, name: str, config: dict[str, Any]) -> Path:
    """Write a component's configuration (as JSON, which is YAML)."""
    path = state.config / f"{name}.json"
    path.write_text(json.dumps(config, indent=1))
    return path
