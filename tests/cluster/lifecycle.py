"""The cluster as a whole: up, attach, down."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from tests.cluster import (
    addons,
    containerd,
    controlplane,
    guard,
    images,
    node,
    preflight,
    programs,
    project,
    storage,
)
from tests.cluster.cluster import Cluster, load_archives, refer
from tests.cluster.commands import ClusterError, wait_for, wait_for_service_account
from tests.cluster.components import Components
from tests.cluster.machine import Machine
from tests.cluster.owner import read_owner, write_owner
from tests.cluster.paths import Cache, State
from tests.cluster.processes import is_alive, this_process


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


def up(cache: Cache, state: State, *, owner: dict[str, int] | None) -> Cluster:
    """Start the cluster, or attach to the one that was started to be kept.

    Args:
        cache: Is filled first where it lacks something.
        state: Its remains of a cluster that died, or whose owner did, are removed first.
        owner: The process that the cluster is for, which is removed once that has died. None: it
            stays.

    Raises:
        preflight.UnsuitableError: This machine cannot.
        ClusterError: A part did not come up. Its log is in the cache's failed-start folder;
            nothing is left running.
    """
    archives = prepare(cache)
    with state.lock():
        running = find_running(cache, state, owner)
        if running is not None:
            return running
        guard.remove(state)
        started = time.monotonic()
        try:
            cluster = start(cache, state, archives, owner)
        except BaseException:  # Ctrl-C too must leave nothing behind
            save_logs(cache, state)
            guard.remove(state)
            raise
        print(
            f"the cluster started in {time.monotonic() - started:.1f} s",
            file=sys.stderr,
            flush=True,
        )
        return cluster


def start(
    cache: Cache, state: State, archives: dict[str, Path], owner: dict[str, int] | None
) -> Cluster:
    """Start every part in order, waiting for none before another needs it."""
    state.create()
    write_owner(state, this_process())  # until it is complete, whatever is to become of it
    guard.post(state)
    machine = Machine(state)
    components = Components(state, machine)
    machine.create(programs.build_init(cache))
    controlplane.start_etcd(cache, state, components)
    containerd.start_containerd(cache, state, components)
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
    wait_for_service_account(kubectl, "default")
    write_owner(state, owner)
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
    # A busy computer may leave one question of many without an answer.
    components.wait_until_ready("kube-apiserver", lambda: cluster.kubectl("get", "--raw=/readyz"))
    return cluster


def find_running(cache: Cache, state: State, owner: dict[str, int] | None) -> Cluster | None:
    """Attach to a cluster that stays, or is the owner's; say why where there are only remains."""
    if not state.exists():
        return None
    try:
        check_unused(state, owner)
        if read_owner(state) not in (None, owner):
            raise ClusterError("the process that started it has died")
        return attach(cache, state)
    except InUseError:
        raise
    except (ClusterError, OSError, ValueError) as reason:
        print(f"removing the remains of a cluster: {reason}", file=sys.stderr, flush=True)
        return None


def check_unused(state: State, owner: dict[str, int] | None) -> None:
    """Raise InUseError where the cluster is another process', which is alive."""
    try:
        other = read_owner(state)
    except (OSError, ValueError):
        return  # there is none, or what is left of one that was killed as it began
    if other not in (None, owner) and is_alive(other["pid"], other["start_time"]):
        raise InUseError(f"process {other['pid']} is using this computer's test cluster")


class InUseError(ClusterError):
    """Another process' tests run on this computer's cluster."""


def down(state: State) -> None:
    """Stop the cluster and remove everything that it made, whatever state it is in."""
    with state.lock():
        guard.remove(state)


def is_kept(state: State) -> bool:
    """Whether a cluster runs that was started to be kept."""
    try:
        Machine(state).pid()
    except ClusterError:
        return False
    return read_owner(state) is None


def is_owned_by_this_process(state: State) -> bool:
    """Whether the cluster is this process' own, to be stopped by it."""
    return state.exists() and read_owner(state) == this_process()


def save_logs(cache: Cache, state: State) -> None:
    """Keep the logs of a start that failed, where the teardown does not reach them."""
    shutil.rmtree(cache.failed_start, ignore_errors=True)
    if state.logs.is_dir():
        shutil.copytree(state.logs, cache.failed_start)
        print(
            f"the logs of the failed start are in {cache.failed_start}", file=sys.stderr, flush=True
        )
