"""Small objects that pass `restricted`, and what the status of an object says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Not root, and not a user that any image knows: as restricted as a pod can be.
USER = 10001

Object = dict[str, Any]


def pod_spec(
    image: str,
    command: Sequence[str],
    *,
    claims: Mapping[str, str] | None = None,
    gpus: int = 0,
    env: Sequence[Object] = (),
    container: str = "main",
) -> Object:
    """Describe a pod that passes `restricted` and ends within a second of being told to.

    Args:
        image: What it runs; it must be on the node or pullable.
        command: Replaces the image's entrypoint.
        claims: Path in the pod -> name of the claim mounted there.
        gpus: How many GPUs it asks for.
        env: Kubernetes' own env entries.
        container: The container's name.
    """
    mounts = dict(claims or {})
    limits = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": container,
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "command": list(command),
                "env": list(env),
                "resources": {"limits": limits},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": name, "mountPath": path} for path, name in mounts.items()
                ],
            }
        ],
        "volumes": [
            {"name": name, "persistentVolumeClaim": {"claimName": name}}
            for name in sorted(set(mounts.values()))
        ],
    }


def claim(name: str, *, storage_class: str = "", size: str = "10Gi") -> Object:
    """Describe a ReadWriteMany claim."""
    spec: Object = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": size}}}
    if storage_class:
        spec["storageClassName"] = storage_class
    metadata = {"name": name}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def pytorchjob(
    name: str,
    image: str,
    command: Sequence[str],
    *,
    replicas: int = 2,
    gpus_per_pod: int = 0,
    claims: Mapping[str, str] | None = None,
    queue: str = "",
) -> Object:
    """Describe a Worker-only PyTorchJob whose exit codes decide over a pod's return.

    Its pods find their replica index in INDEX and their uid in POD_UID.

    Args:
        name: The job's name.
        image: What its pods run.
        command: Replaces the image's entrypoint.
        replicas: How many pods.
        gpus_per_pod: How many GPUs each asks for.
        claims: Path in the pod -> name of the claim mounted there.
        queue: A Kueue LocalQueue; the job is then created suspended.
    """
    env = [
        field("INDEX", "metadata.labels['training.kubeflow.org/replica-index']"),
        field("POD_UID", "metadata.uid"),
    ]
    pod = pod_spec(image, command, claims=claims, env=env, container="pytorch", gpus=gpus_per_pod)
    del pod["restartPolicy"]  # the operator's to decide
    worker = {"replicas": replicas, "restartPolicy": "ExitCode", "template": {"spec": pod}}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {
            "name": name,
            "labels": {"kueue.x-k8s.io/queue-name": queue} if queue else {},
        },
        "spec": {
            "runPolicy": {"cleanPodPolicy": "Running", "suspend": bool(queue)},
            "pytorchReplicaSpecs": {"Worker": worker},
        },
    }


def field(name: str, path: str) -> Object:
    """Describe a variable that the downward API fills."""
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def phase(pod: Object) -> str:
    """A pod's phase."""
    found: str = pod["status"].get("phase", "")
    return found


def has_condition(thing: Object, kind: str, status: str = "True") -> bool:
    """Whether an object has a condition."""
    conditions = thing.get("status", {}).get("conditions", [])
    return any(item["type"] == kind and item["status"] == status for item in conditions)


def is_ready(pod: Object) -> bool:
    """Whether a pod is Ready."""
    return has_condition(pod, "Ready")
