"""The whole cluster: up, attach, down, and control over its parts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import (
    addons,
    controlplane,
    gpus,
    images,
    node,
    preflight,
    programs,
    project,
    storage,
)
from tests.cluster.commands import ClusterError, Kubectl, wait_for
from tests.cluster.components import Components
from tests.cluster.machine import Machine, is_alive, start_time
from tests.cluster.paths import Cache, State, write_whole

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
    def ctr(self) -> node.Ctr:
        """The container runtime's client."""
        return node.Ctr(self.components.machine, self.state)

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

    def build_and_load_image(
        self, context: Path = project.CHECKOUT, dockerfile: Path | None = None
    ) -> str:
        """Bring the image of a checkout to the node, and return its name."""
        image = project.build_image(self.cache, context, dockerfile)
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
        addons.apply_kueue(
            self.cache, self.kubectl, pytorchjob=pytorchjob, feature_gates=feature_gates
        )

    def disable_kueue(self) -> None:
        """Remove Kueue and its queues."""
        addons.delete_kueue(self.cache, self.kubectl)

    def pretend_nodes(self, count: int, gpus_per_node: int = 8) -> list[str]:
        """Add nodes that exist on paper only."""
        if "kwok" not in self.components.names() or not self.components.is_running("kwok"):
            gpus.start_pretender(self.cache, self.state, self.components)
        return gpus.add_pretended_nodes(self.kubectl, count, gpus_per_node)


def prepare(cache: Cache) -> dict[str, Path]:
    """Install, build and pack whatever the cache lacks.

    Returns:
        The archives that every cluster needs, by image name.
    """
    preflight.check_machine()
    preflight.install_packages()
    programs.build(cache, *programs.CORE)
    operator = images.TRAINING_OPERATOR_IMAGE
    return {
        images.PAUSE_IMAGE: images.pause_archive(cache),
        images.BASE_IMAGE: images.base_archive(cache),
        operator: images.operator_archive(cache, operator, programs.TRAINING_OPERATOR),
    }


def up(cache: Cache, state: State, *, keep: bool) -> Cluster:
    """Start the cluster, or attach to the one that was started to be kept.

    Args:
        cache: Is filled first where it lacks something.
        state: Its remains of a cluster that died, or whose owner did, are removed first.
        keep: The cluster outlives this process. Otherwise the next start after this process has died removes it.

    Raises:
        preflight.Unsuitable: This machine cannot.
        ClusterError: A part did not come up. Its log is in the cache's failed-start folder; nothing is left running.
    """
    archives = prepare(cache)
    with state.lock():
        running = find_running(cache, state)
        if running is not None:
            return running
        Machine(state).destroy()
        started = time.monotonic()
        try:
            cluster = start(cache, state, archives, keep=keep)
        except BaseException:  # Ctrl-C too must leave nothing behind
            save_logs(cache, state)
            Machine(state).destroy()
            raise
        print(
            f"the cluster started in {time.monotonic() - started:.1f} s",
            file=sys.stderr,
            flush=True,
        )
        return cluster


def start(cache: Cache, state: State, archives: dict[str, Path], *, keep: bool) -> Cluster:
    """Start every part in order; what can come up beside another is not waited for until the end."""
    state.create()
    owner = None if keep else this_process()
    write_whole(owner_record(state), json.dumps({"owner": owner}))
    machine = Machine(state)
    components = Components(state, machine)
    machine.create(programs.build_init(cache))
    controlplane.start_etcd(cache, state, components)
    node.start_containerd(cache, state, components)
    kubectl = controlplane.start_api_server(cache, state, components)
    controlplane.start_controllers(cache, state, components)
    cluster = Cluster(cache, state, components, kubectl)
    load_archives(cluster.ctr, archives)
    project.prune_images(cache, cluster.ctr)
    node.start_kubelet(cache, state, components)
    node.start_kube_proxy(cache, state, components)
    addons.start_dns(cache, state, components)
    storage.start_storage(cache, state, components, kubectl)
    addons.apply_training_operator(cache, kubectl)
    wait_for("the node registers", lambda: kubectl.get("node", node.NODE_NAME), timeout_seconds=120)
    cluster.wait_until_ready("kubelet")
    addons.wait_for_training_operator(kubectl)
    return cluster


def attach(cache: Cache, state: State) -> Cluster:
    """Refer to the cluster that runs.

    Raises:
        ClusterError: None does, or a part of it has died.
    """
    cluster = refer(cache, state)
    components = cluster.components
    components.machine.pid()
    dead = [name for name in components.names() if not components.is_running(name)]
    if dead:
        raise ClusterError(f"{', '.join(dead)} died; see {components.log(dead[0])}")
    cluster.kubectl("get", "--raw=/readyz")
    return cluster


def refer(cache: Cache, state: State) -> Cluster:
    """Refer to the cluster of a state folder, in whatever condition it is."""
    components = Components(state, Machine(state))
    return Cluster(
        cache, state, components, Kubectl(state.kubeconfig, programs.KUBECTL.path(cache))
    )


def find_running(cache: Cache, state: State) -> Cluster | None:
    """Attach to a cluster that was started to be kept; say why where there are only remains."""
    if not state.exists():
        return None
    try:
        owner = json.loads(owner_record(state).read_text())["owner"]
        if owner is not None:
            if is_alive(owner["pid"], owner["start_time"]):
                raise InUse(f"process {owner['pid']} is using the test cluster of this computer")
            raise ClusterError("the process that started it has died")
        return attach(cache, state)
    except InUse:
        raise
    except (ClusterError, OSError, ValueError) as reason:
        print(f"removing the remains of a cluster: {reason}", file=sys.stderr, flush=True)
        return None


class InUse(ClusterError):
    """Another process' tests run on this computer's cluster."""


def down(state: State) -> None:
    """Stop the cluster and remove everything that it made, whatever state it is in."""
    with state.lock():
        Machine(state).destroy()


def this_process() -> dict[str, int]:
    """Name this process for good: its number alone may be given away again."""
    return {"pid": os.getpid(), "start_time": start_time(os.getpid())}


def is_owned_by_this_process(state: State) -> bool:
    """Whether the running cluster is this process' own, to be stopped by it."""
    record = owner_record(state)
    return record.exists() and json.loads(record.read_text())["owner"] == this_process()


def owner_record(state: State) -> Path:
    """Where it is written whose cluster this is."""
    return state.root / "cluster.json"


def load_archives(ctr: node.Ctr, archives: dict[str, Path]) -> None:
    """Import the images that containerd does not have."""
    there = set(ctr("images", "list", "--quiet").split())
    for image, archive in archives.items():
        if image not in there:
            ctr("images", "import", archive, timeout_seconds=600)


def save_logs(cache: Cache, state: State) -> None:
    """Keep the logs of a start that failed, where the teardown does not reach them."""
    shutil.rmtree(cache.failed_start, ignore_errors=True)
    if state.logs.is_dir():
        shutil.copytree(state.logs, cache.failed_start)
        print(
            f"the logs of the failed start are in {cache.failed_start}", file=sys.stderr, flush=True
        )
