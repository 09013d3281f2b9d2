"""What is added to a bare cluster: DNS, the training operator, Kueue.

The operators' manifests come out of their Go modules. What is changed is stated in an overlay here: images that exist
in the machine, and probes that look more often, so that tests wait less.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.cluster import images, programs
from tests.cluster.commands import Kubectl, run, wait_for
from tests.cluster.components import Components
from tests.cluster.machine import NODE_ADDRESS
from tests.cluster.paths import Cache, State
from tests.cluster.programs import Program

# 30 s, as many real clusters have it: a shorter life would hide what stale addresses do to a rendezvous.
DNS_TTL_SECONDS = 30

COREFILE = """\
cluster.local in-addr.arpa {{
  bind {address}
  errors
  kubernetes {{
    kubeconfig {kubeconfig}
    ttl {ttl}
  }}
  cache {ttl}
}}
# There is no other name server to ask: every other name does not exist.
. {{
  bind {address}
  template ANY ANY {{
    rcode NXDOMAIN
  }}
}}
"""

OPERATOR_NAMESPACE = "kubeflow"
OPERATOR = "training-operator"
KUEUE_NAMESPACE = "kueue-system"
KUEUE = "kueue-controller-manager"
FAST_PROBE = {"initialDelaySeconds": 1, "periodSeconds": 1}


def start_dns(cache: Cache, state: State, components: Components) -> None:
    """Start CoreDNS on the node's address."""
    corefile = state.config / "Corefile"
    corefile.write_text(
        COREFILE.format(address=NODE_ADDRESS, kubeconfig=state.kubeconfig, ttl=DNS_TTL_SECONDS)
    )
    components.start("coredns", [programs.COREDNS.path(cache), "-conf", corefile])


def apply_training_operator(cache: Cache, kubectl: Kubectl) -> None:
    """Install the training operator; `wait_for_training_operator` waits for it."""
    container = {
        "name": OPERATOR,
        "image": images.TRAINING_OPERATOR_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "readinessProbe": FAST_PROBE,
    }
    patch = deployment_patch(OPERATOR_NAMESPACE, OPERATOR, {"containers": [container]})
    manifests = render(
        cache, programs.TRAINING_OPERATOR, "manifests", "overlays/standalone", [patch], kubectl
    )
    kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=manifests)


def wait_for_training_operator(kubectl: Kubectl) -> None:
    """Wait until a PyTorchJob would be accepted: the operator runs and its webhook answers."""
    probe = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": "probe", "namespace": OPERATOR_NAMESPACE},
        "spec": {
            "pytorchReplicaSpecs": {"Worker": {"template": {"spec": {"containers": [CONTAINER]}}}}
        },
    }
    wait_until_accepted(kubectl, OPERATOR_NAMESPACE, OPERATOR, probe)


CONTAINER = {"name": "pytorch", "image": images.BASE_IMAGE}


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
    # An aggregated API needs certificates that this API server is not given, and while it does not answer no
    # namespace can be deleted.
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
    """Remove Kueue. Its webhooks go first: without their server they would refuse every new pod."""
    for kind in ("mutatingwebhookconfiguration", "validatingwebhookconfiguration"):
        kubectl("delete", kind, "--selector=app.kubernetes.io/name=kueue", "--ignore-not-found")
    manifests = render(cache, programs.KUEUE, "config", "default", [], kubectl)
    kubectl(
        "delete",
        "--ignore-not-found",
        "--wait",
        "--filename=-",
        stdin=manifests,
        timeout_seconds=300,
    )


def wait_until_accepted(
    kubectl: Kubectl, namespace: str, deployment: str, probe: dict[str, Any]
) -> None:
    """Wait until a deployment is rolled out and the webhooks behind it pass an object (which is not created)."""
    kubectl(
        f"--namespace={namespace}",
        "rollout",
        "status",
        f"deployment/{deployment}",
        "--timeout=240s",
        timeout_seconds=300,
    )
    wait_for(
        f"{deployment}'s webhooks answer",
        lambda: kubectl("create", "--dry-run=server", "--filename=-", stdin=json.dumps(probe)),
        timeout_seconds=180,
        interval_seconds=0.5,
    )


def deployment_patch(namespace: str, name: str, pod_spec: dict[str, Any]) -> dict[str, Any]:
    """Change the pods of a deployment (a strategic merge patch)."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"template": {"spec": pod_spec}},
    }


def render(
    cache: Cache,
    program: Program,
    folder: str,
    entry: str,
    patches: Sequence[dict[str, Any]],
    kubectl: Kubectl,
) -> str:
    """Render a module's own manifests with our patches.

    Args:
        cache: For a temporary copy; Go keeps its modules read-only.
        program: Whose module holds them.
        folder: The folder in the module that is self-contained.
        entry: The kustomization in it that is the starting point.
        patches: Strategic merge patches.
        kubectl: Brings kustomize.
    """
    with cache.scratch() as scratch:
        copy = scratch / "module"
        source = Path(programs.download(program)["Dir"]) / folder
        shutil.copytree(source, copy, copy_function=shutil.copyfile)
        overlay = scratch / "overlay"
        overlay.mkdir()
        kustomization = {
            "resources": [os.path.relpath(copy / entry, overlay)],
            "patches": [{"patch": json.dumps(patch)} for patch in patches],
        }
        (overlay / "kustomization.yaml").write_text(json.dumps(kustomization))
        return run([kubectl.program, "kustomize", overlay])
