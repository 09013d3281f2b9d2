"""Shared volumes: StorageClasses, and a provisioner that stands in for a shared file system's.

A volume is a folder of this computer, mounted into any number of pods by hostPath. As on many
shared file systems, `fsGroup` changes nothing there: who may write is decided by the folder's owner
and mode, which the StorageClass states.

    clusterfit-shared       mode 1777: any user may write, as on an export that squashes nobody
    clusterfit-shared-root  root's, mode 0755: the trap; only root can write, fsGroup or not
    clusterfit-small        mode 1777 and as large as was asked for, in memory: it can be filled

A test may add classes of its own. Parameters: `mode` (octal), `owner` (UID:GID), `medium: Memory`.

This file is also the provisioner, which runs in the machine:
`python -m tests.cluster.storage VOLUMES KUBECTL KUBECONFIG`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from tests.cluster import programs
from tests.cluster.commands import ClusterError, Kubectl, run
from tests.cluster.components import Components
from tests.cluster.paths import CHECKOUT, Cache, State

PROVISIONER = "clusterfit.test/shared"
SHARED_CLASS = "clusterfit-shared"
ROOT_OWNED_CLASS = "clusterfit-shared-root"
SMALL_CLASS = "clusterfit-small"
CLASSES: dict[str, dict[str, str]] = {
    SHARED_CLASS: {"mode": "1777"},
    ROOT_OWNED_CLASS: {"mode": "0755"},
    SMALL_CLASS: {"mode": "1777", "medium": "Memory"},
}
UNITS = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


def start_storage(cache: Cache, state: State, components: Components, kubectl: Kubectl) -> None:
    """Create the classes, the first of them the default, and start the provisioner."""
    kubectl.apply(*(storage_class(name, parameters) for name, parameters in CLASSES.items()))
    module = ["env", f"PYTHONPATH={CHECKOUT}", sys.executable, "-m", "tests.cluster.storage"]
    components.start(
        "storage", [*module, state.volumes, programs.KUBECTL.path(cache), state.kubeconfig]
    )


def storage_class(name: str, parameters: dict[str, str]) -> dict[str, Any]:
    """Describe one class of volumes."""
    default = {"storageclass.kubernetes.io/is-default-class": str(name == SHARED_CLASS).lower()}
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name, "annotations": default},
        "provisioner": PROVISIONER,
        "parameters": parameters,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    }


def serve(volumes: Path, kubectl: Kubectl) -> None:
    """Provide a volume for each new claim and remove it with the claim, for ever."""
    while True:
        try:
            for event in watch(kubectl, "persistentvolumeclaims"):
                handle(event["type"], event["object"], volumes, kubectl)
            remove_orphans(volumes, kubectl)
        except (ClusterError, OSError, ValueError) as error:  # also half a line of a dying server
            print(error, flush=True)
        time.sleep(0.5)  # the API server ended the watch, or is away


def watch(kubectl: Kubectl, resource: str) -> Generator[dict[str, Any]]:
    """Yield what is there and then what changes, until the API server ends the watch."""
    arguments = [
        "get",
        resource,
        "--all-namespaces",
        "--watch",
        "--output-watch-events",
        "--output=json",
    ]
    with subprocess.Popen(
        kubectl.command(*arguments), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                yield json.loads(line)
        finally:
            process.kill()  # left alone by a fault here, it would be waited for until it speaks


def handle(kind: str, claim: dict[str, Any], volumes: Path, kubectl: Kubectl) -> None:
    """Act on one change of a claim."""
    storage_class_name = claim["spec"].get("storageClassName", "")
    volume = f"pvc-{claim['metadata']['uid']}"
    if kind == "DELETED":
        remove(volume, volumes, kubectl)
    elif claim["status"].get("phase") == "Pending" and not claim["spec"].get("volumeName"):
        found = find(kubectl, "storageclass", storage_class_name) if storage_class_name else {}
        if found.get("provisioner") == PROVISIONER:
            provide(volume, claim, found, volumes, kubectl)


def provide(
    volume: str, claim: dict[str, Any], found: dict[str, Any], volumes: Path, kubectl: Kubectl
) -> None:
    """Make the folder behind a claim, and the PersistentVolume that leads there."""
    parameters = found.get("parameters", {})
    capacity = claim["spec"]["resources"]["requests"]["storage"]
    path = volumes / volume
    path.mkdir(exist_ok=True)
    if parameters.get("medium") == "Memory" and not path.is_mount():
        run(
            [
                "mount",
                "--types",
                "tmpfs",
                "--options",
                f"size={size_bytes(capacity)}",
                "tmpfs",
                path,
            ]
        )
    path.chmod(int(parameters.get("mode", "0755"), 8))
    user, _, group = parameters.get("owner", "0:0").partition(":")
    os.chown(path, int(user), int(group))
    reference = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        **{key: claim["metadata"][key] for key in ("name", "namespace", "uid")},
    }
    persistent_volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": volume,
            "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER},
        },
        "spec": {
            "accessModes": claim["spec"]["accessModes"],
            "capacity": {"storage": capacity},
            "claimRef": reference,
            "hostPath": {"path": str(path), "type": "Directory"},
            "persistentVolumeReclaimPolicy": found.get("reclaimPolicy", "Delete"),
            "storageClassName": found["metadata"]["name"],
        },
    }
    kubectl.apply(persistent_volume)
    print(f"{claim['metadata']['namespace']}/{claim['metadata']['name']}: {path}", flush=True)


def remove_orphans(volumes: Path, kubectl: Kubectl) -> None:
    """Remove volumes whose claims were deleted while nobody watched."""
    claims = kubectl.get("persistentvolumeclaims", "--all-namespaces")["items"]
    wanted = {f"pvc-{claim['metadata']['uid']}" for claim in claims}
    for path in volumes.iterdir():
        if path.name not in wanted:
            remove(path.name, volumes, kubectl)


def remove(volume: str, volumes: Path, kubectl: Kubectl) -> None:
    """Remove a volume and, if its class says so, what is in it."""
    found = find(kubectl, "persistentvolume", volume)
    if not found or found["spec"]["persistentVolumeReclaimPolicy"] != "Delete":
        return
    kubectl("delete", "persistentvolume", volume, "--wait=false")
    path = volumes / volume
    if path.is_mount():
        run(["umount", path])
    shutil.rmtree(path, ignore_errors=True)


def find(kubectl: Kubectl, kind: str, name: str) -> dict[str, Any]:
    """Read an object; an empty one where it does not exist."""
    said = kubectl("get", kind, name, "--ignore-not-found", "--output=json")
    found: dict[str, Any] = json.loads(said or "{}")
    return found


def size_bytes(quantity: str) -> int:
    """Read a Kubernetes quantity of storage, such as 64Mi."""
    match = re.fullmatch(r"(\d+)([A-Za-z]*)", quantity)
    if match is None or match[2] not in UNITS:
        raise ClusterError(f"cannot read the size {quantity!r}")
    return int(match[1]) * UNITS[match[2]]


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Kubectl(Path(sys.argv[3]), sys.argv[2]))
