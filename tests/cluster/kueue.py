"""Kueue: installed from its module's manifests, with the integrations that a test wants."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence

from tests.cluster import images, programs
from tests.cluster.addons import FAST_PROBE, deployment_patch, render, wait_until_accepted
from tests.cluster.commands import CommandError, Kubectl, wait_for
from tests.cluster.paths import Cache

KUEUE_NAMESPACE = "kueue-system"
KUEUE = "kueue-controller-manager"


def apply_kueue(
    cache: Cache, kubectl: Kubectl, *, pytorchjob: bool, feature_gates: Sequence[str] = ()
) -> None:
    """Install Kueue, or change how it is set up, and wait until it answers.

    Args:
        cache: Holds the program.
        kubectl: The administrator's.
        pytorchjob: Whether its PyTorchJob integration is on; newer releases ship with it off.
        feature_gates: For example `LocalQueueDefaulting=true`.
    """
    frameworks = ["batch/job", *(["kubeflow.org/pytorchjob"] if pytorchjob else [])]
    config = {
        "apiVersion": "config.kueue.x-k8s.io/v1beta1",
        "kind": "Configuration",
        "health": {"healthProbeBindAddress": ":8081"},
        "metrics": {"bindAddress": ":8080"},
        "webhook": {"port": 9443},
        "leaderElection": {"leaderElect": False},
        "clientConnection": {"qps": 50, "burst": 100},
        "integrations": {"frameworks": frameworks},
    }
    gates = [f"--feature-gates={','.join(feature_gates)}"] if feature_gates else []
    manager = {
        "name": "manager",
        "image": images.KUEUE_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "args": ["--config=/controller_manager_config.yaml", "--zap-log-level=2", *gates],
        "readinessProbe": FAST_PROBE,
        "securityContext": {"runAsUser": 65532},  # the image has no user of its own
        "resources": {"$patch": "replace"},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        # Seen by the pod template, so that a changed configuration starts a new pod.
        "env": [{"name": "CONFIGURATION", "value": json.dumps(config, sort_keys=True)}],
    }
    metrics_proxy = {"name": "kube-rbac-proxy", "$patch": "delete"}  # an image that is not there
    spec = {"containers": [manager, metrics_proxy], "volumes": [{"name": "tmp", "emptyDir": {}}]}
    deployment = deployment_patch(KUEUE_NAMESPACE, KUEUE, spec)
    deployment["spec"]["strategy"] = {"type": "Recreate"}  # two of them would both admit
    # An aggregated API needs certificates that this API server is not given, and while it does not
    # answer no namespace can be deleted.
    visibility = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": "v1beta1.visibility.kueue.x-k8s.io"},
        "$patch": "delete",
    }
    settings = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "kueue-manager-config", "namespace": KUEUE_NAMESPACE},
        "data": {"controller_manager_config.yaml": json.dumps(config, indent=1)},
    }
    patches = [deployment, visibility, settings]
    manifests = render(cache, programs.KUEUE, "config", "default", patches, kubectl)
    kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=manifests)
    flavor = {
        "apiVersion": "kueue.x-k8s.io/v1beta1",
        "kind": "ResourceFlavor",
        "metadata": {"name": "probe"},
    }
    wait_until_accepted(kubectl, KUEUE_NAMESPACE, KUEUE, flavor)


def delete_kueue(cache: Cache, kubectl: Kubectl) -> None:
    """Remove Kueue and all its objects.

    The order matters. Its objects have finalizers that only a running Kueue takes off, and not even
    that one where an integration has been turned off, so they are taken off here. Its webhooks go
    before their server does: without it they would refuse every new pod.
    """
    if not kubectl("get", "namespace", KUEUE_NAMESPACE, "--ignore-not-found"):
        return
    for kind in ("workloads", "localqueues", "clusterqueues", "resourceflavors"):
        remove_objects(kubectl, f"{kind}.kueue.x-k8s.io")
    webhooks = "mutatingwebhookconfigurations,validatingwebhookconfigurations"
    kubectl("delete", webhooks, "--selector=app.kubernetes.io/name=kueue")
    manifests = render(cache, programs.KUEUE, "config", "default", [], kubectl)
    kubectl("delete", "--ignore-not-found", "--filename=-", stdin=manifests, timeout_seconds=300)


def remove_objects(kubectl: Kubectl, kind: str) -> None:
    """Delete every object of a kind, finalizers or not."""
    kubectl("delete", kind, "--all", "--all-namespaces", "--wait=false")
    for item in kubectl.get(kind, "--all-namespaces")["items"]:
        name, namespace = item["metadata"]["name"], item["metadata"].get("namespace", "default")
        release = '--patch={"metadata":{"finalizers":null}}'
        with contextlib.suppress(CommandError):  # it is gone by itself
            kubectl(f"--namespace={namespace}", "patch", kind, name, "--type=merge", release)
    wait_for(f"every {kind} goes", lambda: not kubectl.get(kind, "--all-namespaces")["items"])
