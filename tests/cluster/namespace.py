"""A namespace for one test: it enforces `restricted` and has shared claims for data and storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.commands import ClusterError, Kubectl, wait_for, wait_for_service_account
from tests.cluster.manifests import Object, claim, is_ready, phase, pod_spec

DATA_CLAIM = "data"
STORAGE_CLAIM = "storage"


@dataclass(frozen=True, slots=True)
class Namespace:
    """One namespace. `kubectl` is the administrator's, scoped to it."""

    name: str
    kubectl: Kubectl
    image: str

    def create(self, labels: Mapping[str, str], storage_class: str = "") -> None:
        """Create it with its claims.

        Args:
            labels: Of the namespace.
            storage_class: Of the two claims; the cluster's default if empty.
        """
        enforced = {"pod-security.kubernetes.io/enforce": "restricted"}
        metadata = {"name": self.name, "labels": {**enforced, **labels}}
        self.kubectl.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        self.kubectl.create(
            claim(DATA_CLAIM, storage_class=storage_class),
            claim(STORAGE_CLAIM, storage_class=storage_class),
        )
        wait_for_service_account(self.kubectl, self.name)

    def delete(self) -> None:
        """Delete it, and wait until its pods have given back what they held.

        What else is in it goes in the API server's own time; `wait_until_gone` waits for that.
        """
        self.kubectl("delete", "namespace", self.name, "--wait=false", "--ignore-not-found")

        def remaining() -> str:
            # A pod that was created while the namespace went has its whole grace period again.
            self.kubectl("delete", "pods", "--all", "--grace-period=1", "--wait=false")
            return self.kubectl("get", "pods", "--output=name")

        wait_for(f"the pods of {self.name} go", remaining, lambda pods: not pods)

    def wait_until_gone(self) -> None:
        """Wait until nothing of a deleted namespace is left."""
        get = ("get", "namespace", self.name, "--ignore-not-found", "--output=yaml")
        wait_for(
            f"namespace {self.name} goes",
            lambda: self.kubectl(*get),
            lambda text: not text.strip(),
            timeout_seconds=180,
        )

    def pod(self, name: str, command: Sequence[str], **settings: Any) -> Object:
        """Describe a pod that passes `restricted`; see `pod_spec` for the settings."""
        spec = pod_spec(self.image, command, **settings)
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}

    def run(self, name: str, command: Sequence[str], **settings: Any) -> str:
        """Run a pod to its successful end and return what it printed."""
        self.kubectl.create(self.pod(name, command, **settings))
        pod = self.wait_for_pod(name, lambda pod: phase(pod) in ("Succeeded", "Failed"))
        output = self.kubectl("logs", name)
        if phase(pod) == "Failed":
            raise ClusterError(f"pod {name} failed:\n{output}")
        return output

    def wait_for_pod(
        self,
        name: str,
        done: Callable[[Object], bool],
        *,
        timeout_seconds: float = 120,
    ) -> Object:
        """Wait until a pod is in the wanted state; return it."""
        return self.wait_for_object("pod", name, done, timeout_seconds=timeout_seconds)

    def wait_for_object(
        self,
        kind: str,
        name: str,
        done: Callable[[Object], bool],
        *,
        timeout_seconds: float = 120,
    ) -> Object:
        """Wait until an object is in the wanted state; return it."""
        return wait_for(
            f"{kind} {self.name}/{name}",
            lambda: self.kubectl.get(kind, name),
            done,
            timeout_seconds=timeout_seconds,
            interval_seconds=0.5,
        )

    def read(self, path: str, claim_name: str = STORAGE_CLAIM) -> str:
        """Read a file of a claim, through a pod, so that it works on any cluster."""
        return self.run_on_claim(["cat", f"/claim/{path}"], claim_name)

    def run_on_claim(self, command: Sequence[str], claim_name: str = STORAGE_CLAIM) -> str:
        """Run a command in a pod that mounts a claim at /claim; return what it prints."""
        reader = f"reader-{claim_name}"
        if not self.kubectl("get", "pod", reader, "--ignore-not-found").strip():
            mounts = {"/claim": claim_name}
            self.kubectl.create(self.pod(reader, ["sleep", "infinity"], claims=mounts))
        self.wait_for_pod(reader, is_ready)
        return self.kubectl("exec", reader, "--", *command)

    def save(self, folder: Path) -> None:
        """Keep what a person needs to understand a failure: objects, events, logs of all pods."""
        folder.mkdir(parents=True, exist_ok=True)
        kinds = "pods,jobs,services,persistentvolumeclaims,configmaps,roles,networkpolicies"
        self._save(folder / "objects.yaml", "get", kinds, "--output=yaml")
        # Each kind of its own: one that the cluster does not know would hide the others.
        for kind in ("pytorchjobs.kubeflow.org", "workloads.kueue.x-k8s.io"):
            self._save(folder / f"{kind.partition('.')[0]}.yaml", "get", kind, "--output=yaml")
        self._save(folder / "pods.txt", "get", "pods", "--output=wide")
        self._save(folder / "describe.txt", "describe", "pods")
        self._save(folder / "events.txt", "get", "events", "--sort-by=.lastTimestamp")
        try:
            pods = self.kubectl.get("pods")["items"]
        except ClusterError as error:
            (folder / "pods.error").write_text(str(error))
            return
        for pod in pods:
            name = pod["metadata"]["name"]
            self._save(folder / f"{name}.log", "logs", name, "--all-containers", "--timestamps")

    def _save(self, path: Path, *args: str) -> None:
        try:
            path.write_text(self.kubectl(*args, timeout_seconds=30))
        except ClusterError as error:  # a pod without a log is no reason to lose the others'
            path.write_text(f"{error}\n")
