"""The `restricted` level of the Pod Security Standards, for the pods that clusterfit makes.

Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

_VOLUME_SOURCES: Final = frozenset(
    {
        "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
        "projected", "secret",
    }
)  # fmt: skip


def find_violations(pod: dict[str, Any]) -> Iterator[str]:
    """Yield what a namespace that enforces `restricted` would refuse a pod's spec for."""
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield f"{field} is set"
    for volume in pod.get("volumes", ()):
        for source in volume.keys() - {"name"} - _VOLUME_SOURCES:
            yield f"volume {volume['name']} is a {source}"
    context = pod.get("securityContext", {})
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        own = container.get("securityContext", {})
        name = f"container {container['name']}"
        if not {**context, **own}.get("runAsNonRoot"):
            yield f"{name} may run as root (runAsNonRoot)"
        if {**context, **own}.get("runAsUser") == 0:
            yield f"{name} runs as user 0"
        profile = {**context, **own}.get("seccompProfile", {}).get("type")
        if profile not in ("RuntimeDefault", "Localhost"):
            yield f"{name} has no seccomp profile"
        if own.get("allowPrivilegeEscalation") is not False:
            yield f"{name} may escalate privileges"
        if own.get("privileged"):
            yield f"{name} is privileged"
        if "ALL" not in own.get("capabilities", {}).get("drop", ()):
            yield f"{name} keeps capabilities"
        if set(own.get("capabilities", {}).get("add", ())) - {"NET_BIND_SERVICE"}:
            yield f"{name} adds capabilities"
        if any(port.get("hostPort") for port in container.get("ports", ())):
            yield f"{name} takes a port of the host"
