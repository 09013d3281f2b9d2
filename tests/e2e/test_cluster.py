"""Proofs that the test cluster behaves like a real one, where the product depends on it.

If one of these fails, do not look at the product yet.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.cluster import gpus, storage
from tests.cluster.cluster import DEFAULT_GPUS, Cluster
from tests.cluster.commands import ClusterError, CommandError, Kubectl, wait_for
from tests.cluster.images import BASE_IMAGE
from tests.cluster.manifests import Object, claim, has_condition, is_ready, phase, pytorchjob
from tests.cluster.namespace import STORAGE_CLAIM, Namespace
from tests.cluster.node import NODE_NAME
from tests.cluster.paths import CHECKOUT
from tests.cluster.processes import name_process
from tests.e2e.remains import label, remove_remains

STORAGE = {"/storage": STORAGE_CLAIM}
SLEEP = ["sleep", "infinity"]

# Asks the cluster's name server itself: the resolver of the C library does not tell a record's
# time to live.
ASK_DNS = """
import json, socket, struct, sys, time
name = sys.argv[1]
server = next(l.split()[1] for l in open("/etc/resolv.conf") if l.startswith("nameserver"))
labels = b"".join(bytes([len(l)]) + l.encode() for l in name.split("."))
query = struct.pack(">6H", 7, 256, 1, 0, 0, 0) + labels + b"\\0" + struct.pack(">2H", 1, 1)
while True:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.sendto(query, (server, 53))
        answer = sock.recv(512)
    if struct.unpack(">H", answer[6:8])[0]:
        break
    time.sleep(0.2)
ttl, = struct.unpack(">I", answer[-10:-6])
print(json.dumps({"address": socket.inet_ntoa(answer[-4:]), "ttl": ttl}))
"""


def test_node_is_ready_and_offers_gpus(cluster: Cluster) -> None:
    node = cluster.kubectl.get("node", NODE_NAME)
    assert has_condition(node, "Ready")
    assert node["status"]["allocatable"][gpus.GPU_RESOURCE] == str(DEFAULT_GPUS)


def test_restricted_pod_runs_and_its_log_is_kept(namespace: Namespace) -> None:
    assert namespace.run("hello", ["python3", "-c", "import os; print(os.getuid())"]) == "10001\n"


def test_root_file_system_is_read_only(namespace: Namespace) -> None:
    with pytest.raises(ClusterError, match="Read-only file system"):
        namespace.run("write", ["python3", "-c", "open('/file', 'w')"])


@pytest.mark.parametrize(
    ("path", "value"),
    [("privileged", True), ("runAsNonRoot", False), ("allowPrivilegeEscalation", True)],
)
def test_restricted_namespace_refuses(namespace: Namespace, path: str, value: bool) -> None:
    pod = namespace.pod("refused", SLEEP)
    context = pod["spec"]["containers"][0]["securityContext"]
    del context["allowPrivilegeEscalation"]
    context[path] = value
    with pytest.raises(CommandError, match='violates PodSecurity "restricted'):
        namespace.kubectl.create(pod)


def test_headless_service_resolves_with_the_lifetime_of_real_clusters(
    cluster: Cluster, namespace: Namespace
) -> None:
    pod = namespace.pod("server", SLEEP)
    pod["metadata"]["labels"] = {"app": "server"}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "server"},
        "spec": {"clusterIP": "None", "selector": {"app": "server"}, "ports": [{"port": 80}]},
    }
    namespace.kubectl.create(pod, service)
    address = namespace.wait_for_pod("server", is_ready)["status"]["podIP"]
    name = f"server.{namespace.name}.svc.cluster.local"
    answer = json.loads(namespace.run("client", ["python3", "-c", ASK_DNS, name]))
    assert answer == {"address": address, "ttl": 30}, "as long as real clusters cache a name"


def test_nothing_outside_the_cluster_is_reachable(cluster: Cluster, namespace: Namespace) -> None:
    # 192.0.2.0/24 is for documentation: nobody is there, and the packet must not even leave.
    script = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=20)"
    with pytest.raises(ClusterError, match="unreachable"):
        namespace.run("outside", ["python3", "-c", script])


def test_claim_is_shared_by_two_pods_at_once(namespace: Namespace) -> None:
    namespace.kubectl.create(namespace.pod("writer", SLEEP, claims=STORAGE))
    namespace.wait_for_pod("writer", is_ready)
    script = "open('/storage/from-writer', 'w').write('shared')"
    namespace.kubectl("exec", "writer", "--", "python3", "-c", script)
    assert namespace.run("reader", ["cat", "/storage/from-writer"], claims=STORAGE) == "shared"
    assert namespace.read("from-writer") == "shared"


def test_fs_group_does_not_open_a_root_owned_volume(cluster: Cluster, namespace: Namespace) -> None:
    namespace.kubectl.create(claim("owned", storage_class=storage.ROOT_OWNED_CLASS))
    with pytest.raises(ClusterError, match="Permission denied"):
        namespace.run("write", ["touch", "/owned/file"], claims={"/owned": "owned"})


def test_small_volume_can_be_filled(cluster: Cluster, namespace: Namespace) -> None:
    namespace.kubectl.create(claim("small", storage_class=storage.SMALL_CLASS, size="8Mi"))
    fill = ["python3", "-c", "open('/small/file', 'wb').write(bytes(9 << 20))"]
    with pytest.raises(ClusterError, match="No space left on device"):
        namespace.run("fill", fill, claims={"/small": "small"})


def test_volume_is_removed_with_its_claim(cluster: Cluster, namespace: Namespace) -> None:
    def is_bound(found: Object) -> bool:
        return bool(found["status"].get("phase") == "Bound")

    volume = namespace.wait_for_object("pvc", STORAGE_CLAIM, is_bound)["spec"]["volumeName"]
    folder = cluster.state.volumes / volume
    assert folder.is_dir()
    namespace.kubectl("delete", "pvc", STORAGE_CLAIM)
    wait_for(f"{folder} goes", lambda: not folder.exists())


@pytest.mark.usefixtures("cluster")  # elsewhere others' GPUs are counted
def test_gpus_are_scheduled_and_not_one_more(namespace: Namespace) -> None:
    namespace.kubectl.create(namespace.pod("nine", SLEEP, gpus=DEFAULT_GPUS + 1))
    pod = namespace.wait_for_pod("nine", lambda pod: has_condition(pod, "PodScheduled", "False"))
    assert "Insufficient nvidia.com/gpu" in json.dumps(pod["status"]["conditions"])
    assert namespace.run("eight", ["echo", "ran"], gpus=DEFAULT_GPUS) == "ran\n"


def test_pretended_nodes_take_32_gpus(cluster: Cluster, namespace: Namespace) -> None:
    names = cluster.pretend_nodes(4, gpus_per_node=8)
    try:
        gpus.set_gpus(cluster.kubectl, 0)
        job = pytorchjob("job", namespace.image, SLEEP, replicas=4, gpus_per_pod=8)
        namespace.kubectl.create(job)
        pods = wait_for(
            "4 pods run",
            lambda: namespace.kubectl.get("pods")["items"],
            lambda pods: [phase(pod) for pod in pods] == ["Running"] * 4,
        )
        assert sorted(pod["spec"]["nodeName"] for pod in pods) == names
    finally:
        namespace.kubectl("delete", "pytorchjobs", "--all")
        cluster.forget_pretended_nodes()
        gpus.set_gpus(cluster.kubectl, DEFAULT_GPUS)


def test_evidence_of_a_failure_is_saved(namespace: Namespace, tmp_path: Path) -> None:
    namespace.run("hello", ["echo", "hello"])
    folder = tmp_path / "failed"
    namespace.save(folder)
    names = {path.name for path in folder.iterdir()}
    assert names >= {"objects.yaml", "events.txt", "describe.txt", "hello.log"}
    assert (folder / "hello.log").read_text().endswith(" hello\n")
    assert "Started" in (folder / "events.txt").read_text()


def test_another_cluster_is_tested_and_evidence_of_a_failure_saved(
    cluster: Cluster, tmp_path: Path
) -> None:
    """This one under another name; the way to one of our own is barred."""
    name = f"test_that_fails_{secrets.token_hex(2)}"
    there = tmp_path / "test_there.py"
    there.write_text(
        f"def {name}(namespace):\n"
        "    namespace.run('hello', ['echo', 'hello'])\n"
        "    assert namespace.name == ''\n"
        "def test_that_needs_control(cluster):\n"
        "    raise AssertionError('over the components of another cluster')\n"
    )
    answer = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.e2e.conftest", "-rs", str(there)],
        cwd=CHECKOUT,
        env={
            "PATH": str(Path(cluster.kubectl.program).parent),
            "HOME": str(tmp_path),
            "CLUSTERFIT_CLUSTER_STATE": str(tmp_path / "state"),
            "CLUSTERFIT_E2E_KUBECONFIG": str(cluster.kubectl.kubeconfig),
            "CLUSTERFIT_E2E_BASE_IMAGE": BASE_IMAGE,
        },
        capture_output=True,
        text=True,
    )
    folder = CHECKOUT / "tests/e2e/failed" / name
    try:
        assert "1 failed, 1 skipped" in answer.stdout, answer.stdout + answer.stderr
        assert "needs control over the cluster's components" in answer.stdout
        assert f"objects, events and logs are in {folder}" in answer.stdout
        assert (folder / "hello.log").read_text().endswith(" hello\n")
        assert not (folder / "cluster").exists(), "the components' logs, which are of ours"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_what_killed_tests_have_left_is_removed(
    cluster: Cluster, namespace: Namespace, tmp_path: Path
) -> None:
    kubectl = cluster.kubectl
    killed = subprocess.Popen(["sleep", "infinity"])
    process = name_process(killed.pid)
    killed.kill()
    killed.wait()
    name = f"left-{secrets.token_hex(2)}"
    left = Namespace(name, Kubectl(kubectl.kubeconfig, kubectl.program, name), namespace.image)
    left.create(label(process))
    left.kubectl.create(left.pod("left", SLEEP))
    kubectl("cordon", NODE_NAME)
    gpus.set_gpus(kubectl, 0)
    cluster.pretend_nodes(1)
    kubectl("delete", "crd", "pytorchjobs.kubeflow.org")
    remove_remains(cluster)
    (node,) = kubectl.get("nodes")["items"]
    assert "unschedulable" not in node["spec"]
    assert node["status"]["allocatable"][gpus.GPU_RESOURCE] == str(DEFAULT_GPUS)
    left.wait_until_gone()
    assert kubectl.get("namespace", namespace.name)["status"]["phase"] == "Active"
    namespace.kubectl.create(pytorchjob("job", namespace.image, ["true"]))


def test_kubeconfig_stands_alone(cluster: Cluster) -> None:
    text = cluster.kubeconfig.read_text()
    assert "certificate-authority-data" in text
    assert str(cluster.state.root) not in text


def test_provisioner_that_stumbles_does_not_wait_for_the_next_claim(tmp_path: Path) -> None:
    """A claim that it could not serve would wait until somebody else makes one."""
    outlived = tmp_path / "outlived"
    program = (
        "import pathlib, time; print('{}', flush=True); time.sleep(60); "
        f"pathlib.Path({str(outlived)!r}).touch()"
    )
    silent: Any = SimpleNamespace(command=lambda *_: [sys.executable, "-c", program])
    events = storage.watch(silent, "persistentvolumeclaims")
    assert next(events) == {}
    events.close()
    assert not outlived.exists()
