"""A running cluster, and control over its parts."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import (
    containerd,
    gpus,
    images,
    node,
    programs,
    project,
)
from tests.cluster.commands import Kubectl
from tests.cluster.components import Components
from tests.cluster.kueue import apply_kueue, delete_kueue
from tests.cluster.machine import Machine
from tests.cluster.paths import CHECKOUT, Cache, State

DEFAULT_GPUS = 8


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster."""

    cache: Cache
    state: State
    components: Components
    kubectl: Kubectl

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.state.kubeconfig

    @property
    def ctr(self) -> containerd.Ctr:
        """The container runtime's client."""
        return containerd.Ctr(self.components.machine, self.state)

    def kill(self, component: str, with_signal: signal.Signals = signal.SIGKILL) -> None:
        """End a component (`kube-apiserver`, `kubelet`, ...) and leave it so."""
        self.components.kill(component, with_signal)

    def start(self, component: str) -> None:
        """Start a component that was killed, and wait until the cluster is whole again."""
        self.components.start_again(component)
        self.wait_until_ready(component)

    def restart(self, component: str, with_signal: signal.Signals = signal.SIGKILL) -> None:
        """Kill a component and start it again."""
        self.kill(component, with_signal)
        self.start(component)

    def mend(self) -> None:
        """Start again whatever has died: the next test must find a whole cluster."""
        dead = [name for name in self.components.names() if not self.components.is_running(name)]
        for component in dead:
            self.components.start_again(component)
        for component in dead:
            self.wait_until_ready(component)

    def wait_until_ready(self, component: str) -> None:
        """Wait until the API server answers and the node is Ready; give the node its GPUs back."""
        self.components.wait_until_ready(component, lambda: self.kubectl("get", "--raw=/readyz"))
        self.kubectl(
            "wait",
            f"node/{node.NODE_NAME}",
            "--for=condition=Ready",
            "--timeout=120s",
            timeout_seconds=130,
        )
        gpus.set_gpus(self.kubectl, DEFAULT_GPUS)

    def build_and_load_image(self, context: Path = CHECKOUT, *, name: str = project.PROJECT) -> str:
        """Bring the image of a checkout, or of any other context, to the node.

        Returns:
            The image's full name.
        """
        image = project.build_image(self.cache, context, name=name)
        project.load_image(self.cache, self.ctr, image)
        return image

    def enable_kueue(self, *, pytorchjob: bool = True, feature_gates: Sequence[str] = ()) -> None:
        """Install Kueue, or change whether it takes part in PyTorchJobs."""
        load_archives(
            self.ctr,
            {
                images.KUEUE_IMAGE: images.operator_archive(
                    self.cache, images.KUEUE_IMAGE, programs.KUEUE
                )
            },
        )
        apply_kueue(self.cache, self.kubectl, pytorchjob=pytorchjob, feature_gates=feature_gates)

    def disable_kueue(self) -> None:
        """Remove Kueue and its queues."""
        delete_kueue(self.cache, self.kubectl)

    def pretend_nodes(self, count: int, gpus_per_node: int = 8) -> list[str]:
        """Add nodes that exist on paper only."""
        if "kwok" not in self.components.names() or not self.components.is_running("kwok"):
            gpus.start_pretender(self.cache, self.state, self.components)
        return gpus.add_pretended_nodes(self.kubectl, count, gpus_per_node)

    def forget_pretended_nodes(self) -> None:
        """Remove those nodes and the pods on them."""
        gpus.remove_pretended_nodes(self.kubectl)


def refer(cache: Cache, state: State) -> Cluster:
    """Refer to the cluster of a state folder, in whatever condition it is."""
    components = Components(state, Machine(state))
    return Cluster(
        cache, state, components, Kubectl(state.kubeconfig, programs.KUBECTL.path(cache))
    )


def load_archives(ctr: containerd.Ctr, archives: dict[str, Path]) -> None:
    """Import the images that containerd does not have."""
    there = set(ctr("images", "list", "--quiet").split())
    for image, archive in archives.items():
        if image not in there:
            ctr("images", "import", archive, timeout_seconds=600)
