"""What is added to a bare cluster: DNS and the training operator; how operators are installed.

The operators' manifests come out of their Go modules. What is changed is stated in an overlay here:
images that exist in the machine, and probes that look more often, so that tests wait less.
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
from tests.cluster.manifests import pytorchjob
from tests.cluster.network import NODE_ADDRESS
from tests.cluster.paths import Cache, State
from tests.cluster.programs import Program

# 30 s, as many real clusters have it: a shorter life would hide what stale addresses do to a
# rendezvous.
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
    probe = pytorchjob("probe", images.BASE_IMAGE, ["true"])
    wait_until_accepted(kubectl, OPERATOR_NAMESPACE, OPERATOR, probe)


def wait_until_accepted(
    kubectl: Kubectl, namespace: str, deployment: str, probe: dict[str, Any]
) -> None:
    """Wait until a deployment is rolled out and its webhooks pass an object (in a dry run)."""
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
