"""What must hold for every rendered object, whatever the values. Checked before sending."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from clusterfit.launch.manifests import Manifest
from clusterfit.launch.pod_security import find_violations
from clusterfit.launch.structural import (
    find_faults,
    load_pod_template_schema,
    load_pytorchjob_schema,
)

_DNS_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_CONFIG_MAP_BYTES: Final = 1 << 20
_ANNOTATION_BYTES: Final = 256 << 10
_SUPERVISOR_RIGHTS: Final = {
    ("kubeflow.org", "pytorchjobs", "get"), ("kubeflow.org", "pytorchjobs", "patch"),
    ("batch", "jobs", "get"), ("batch", "jobs", "patch"), ("", "pods", "get"),
}  # fmt: skip


def check_manifests(manifests: Iterable[Manifest]) -> list[str]:
    """Return one line for each broken rule; none means that the objects can be sent."""
    return [
        f"{manifest['kind']} {manifest['metadata']['name']}: {fault}"
        for manifest in manifests
        for fault in _find_manifest_faults(manifest)
    ]


def find_restrictions(manifests: Iterable[Manifest]) -> list[str]:
    """Return why a namespace that enforces `restricted` Pod Security would refuse the pods.

    What clusterfit adds passes; volumes of the user's own may not.
    """
    return sorted(
        {
            violation
            for manifest in manifests
            if "template" in (parts := _pod_template(manifest))
            for violation in find_violations(parts["template"]["spec"])
        }
    )


def _find_manifest_faults(manifest: Manifest) -> Iterator[str]:
    metadata = manifest["metadata"]
    kind = manifest["kind"]
    if not _DNS_LABEL.fullmatch(metadata["name"]):
        yield "its name is no DNS label of at most 63 characters; choose a shorter `name`"
    yield from _find_metadata_faults(metadata)
    if "clusterfit.dev/run" not in metadata.get("labels", {}):
        yield "it lacks the label clusterfit.dev/run, by which it is found again"
    if kind == "PyTorchJob":
        yield from find_faults(manifest, load_pytorchjob_schema())
        yield from _find_pytorchjob_faults(manifest)
    elif kind == "Job":
        path = "spec.template"
        yield from find_faults(manifest["spec"]["template"], load_pod_template_schema(), path)
    elif kind == "ConfigMap":
        if sum(len(text.encode()) for text in manifest["data"].values()) > _CONFIG_MAP_BYTES:
            yield "it exceeds 1 MiB, the most that Kubernetes stores; shorten the run file"
        for name, text in manifest["data"].items():
            if name.endswith(".json"):
                json.loads(text)
    elif kind == "Role":
        yield from _find_role_faults(manifest)
    if "template" in (parts := _pod_template(manifest)):
        yield from _find_template_faults(parts["template"], manifest)


def _find_metadata_faults(metadata: dict[str, Any]) -> Iterator[str]:
    for key, value in (metadata.get("labels") or {}).items():
        if not isinstance(value, str) or not _LABEL_VALUE.fullmatch(value):
            yield f"label {key}: got {value!r}, want at most 63 letters, digits, - _ or ."
    annotations = metadata.get("annotations") or {}
    if sum(len(key) + len(str(value).encode()) for key, value in annotations.items()) > (
        _ANNOTATION_BYTES
    ):
        yield "its annotations exceed 256 KiB, the most that Kubernetes stores; shorten them"


def _find_pytorchjob_faults(manifest: Manifest) -> Iterator[str]:
    spec = manifest["spec"]
    replicas = spec["pytorchReplicaSpecs"]
    if set(replicas) != {"Worker"}:
        yield "it must have workers only: a master makes the operator add a container of its own"
        return
    if replicas["Worker"]["restartPolicy"] != "ExitCode" or "backoffLimit" in spec["runPolicy"]:
        yield "exit codes must decide over restarts"
    containers = [item["name"] for item in replicas["Worker"]["template"]["spec"]["containers"]]
    if containers != ["pytorch"]:
        yield f"its container must be named pytorch, got {', '.join(containers)}"


def _find_template_faults(template: dict[str, Any], manifest: Manifest) -> Iterator[str]:
    yield from _find_metadata_faults(template["metadata"])
    pod = template["spec"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    is_supervisor = (
        manifest["metadata"]["labels"].get("app.kubernetes.io/component") == "supervisor"
    )
    if pod["automountServiceAccountToken"] != is_supervisor:
        yield "only the supervisor's pod may hold a service account token"
    for container in pod["containers"]:
        names = [variable["name"] for variable in container["env"]]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"environment variable {name} is given twice"
        for mount in container["volumeMounts"]:
            if mount["name"] not in volumes:
                yield f"{mount['mountPath']} is mounted from {mount['name']}, which is no volume"


def _find_role_faults(manifest: Manifest) -> Iterator[str]:
    for rule in manifest["rules"]:
        rights = {
            (group, resource, verb)
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }
        if rights - _SUPERVISOR_RIGHTS or not rule.get("resourceNames"):
            yield "the supervisor may only get and patch the release's jobs and get their pods"


def _pod_template(manifest: Manifest) -> dict[str, Any]:
    """Return the part of an object that holds a pod template, or an empty one."""
    if manifest["kind"] == "PyTorchJob":
        worker: dict[str, Any] = manifest["spec"]["pytorchReplicaSpecs"].get("Worker", {})
        return worker
    spec: dict[str, Any] = manifest.get("spec", {})
    return spec
