"""Proofs that the test cluster behaves like a real one, where the product depends on it.

If one of these fails, do not look at the product yet.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.cluster import gpus, storage
from tests.cluster.addons import DNS_TTL_SECONDS, OPERATOR, OPERATOR_NAMESPACE
from tests.cluster.cluster import DEFAULT_GPUS, Cluster
from tests.cluster.commands import ClusterError, CommandError, Kubectl, wait_for
from tests.cluster.namespace import (
    STORAGE_CLAIM,
    Namespace,
    Object,
    claim,
    has_condition,
    is_ready,
    log_lines,
    phase,
    pod_spec,
    pytorchjob,
)
from tests.cluster.node import NODE_NAME

STORAGE = {"/storage": STORAGE_CLAIM}
SLEEP = ["sleep", "infinity"]

# Asks the cluster's name server itself: the resolver of the C library does not tell a record's time to live.
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

# Appends the pod's identity to a file of its replica; its first life ends with the code it is given.
FAIL_ONCE = """
import os, sys
path = f"/storage/{os.environ['INDEX']}"
with open(path, "a") as lives:
    print(os.environ["POD_UID"], file=lives, flush=True)
with open(path) as lives:
    first = len(lives.readlines()) == 1
sys.exit(int(sys.argv[1]) if first and os.environ["INDEX"] == "1" else 0)
"""


def field(name: str, path: str) -> Object:
    """Describe a variable that the downward API fills."""
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


IDENTITY = [
    field("INDEX", "metadata.labels['training.kubeflow.org/replica-index']"),
    field("POD_UID", "metadata.uid"),
]


def create_job(
    namespace: Namespace,
    command: list[str],
    *,
    replicas: int = 2,
    gpus_per_pod: int = 0,
    queue: str = "",
) -> None:
    """Create the PyTorchJob `job`, suspended if it goes through a queue."""
    spec = pod_spec(
        namespace.image,
        command,
        claims=STORAGE,
        env=IDENTITY,
        container="pytorch",
        gpus=gpus_per_pod,
    )
    job = pytorchjob("job", spec, replicas=replicas, suspend=bool(queue))
    if queue:
        job["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": queue}
    namespace.kubectl.create(job)


def wait_for_job(namespace: Namespace, condition: str) -> Object:
    """Wait until the PyTorchJob `job` has a condition."""
    return namespace.wait_for_object(
        "pytorchjob", "job", lambda job: has_condition(job, condition), timeout_seconds=180
    )


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
    assert answer == {"address": address, "ttl": DNS_TTL_SECONDS}


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


def test_fs_group_does_not_open_a_root_owned_volume(
    cluster: Cluster, namespace: Namespace
) -> None:
    namespace.kubectl.create(claim("owned", storage_class=storage.ROOT_OWNED_CLASS))
    with pytest.raises(ClusterError, match="Permission denied"):
        namespace.run("write", ["touch", "/owned/file"], claims={"/owned": "owned"})


def test_small_volume_can_be_filled(cluster: Cluster, namespace: Namespace) -> None:
    namespace.kubectl.create(claim("small", storage_class=storage.SMALL_CLASS, size="8Mi"))
    with pytest.raises(ClusterError, match="No space left on device"):
        fill = "open('/small/file', 'wb').write(bytes(9 << 20))"
        namespace.run("fill", ["python3", "-c", fill], claims={"/small": "small"})


def test_volume_is_removed_with_its_claim(cluster: Cluster, namespace: Namespace) -> None:
    def is_bound(found: Object) -> bool:
        return bool(found["status"].get("phase") == "Bound")

    volume = namespace.wait_for_object("pvc", STORAGE_CLAIM, is_bound)["spec"]["volumeName"]
    folder = cluster.state.volumes / volume
    assert folder.is_dir()
    namespace.kubectl("delete", "pvc", STORAGE_CLAIM)
    wait_for(f"{folder} goes", lambda: not folder.exists())


def test_gpus_are_scheduled_and_not_one_more(namespace: Namespace) -> None:
    namespace.kubectl.create(namespace.pod("nine", SLEEP, gpus=DEFAULT_GPUS + 1))
    pod = namespace.wait_for_pod("nine", lambda pod: has_condition(pod, "PodScheduled", "False"))
    assert "Insufficient nvidia.com/gpu" in json.dumps(pod["status"]["conditions"])
    assert namespace.run("eight", ["echo", "ran"], gpus=DEFAULT_GPUS) == "ran\n"


def test_pretended_nodes_take_32_gpus(cluster: Cluster, namespace: Namespace) -> None:
    names = cluster.pretend_nodes(4, gpus_per_node=8)
    try:
        gpus.set_gpus(cluster.kubectl, 0)
        create_job(namespace, SLEEP, replicas=4, gpus_per_pod=8)
        pods = wait_for(
            "4 pods run",
            lambda: namespace.kubectl.get("pods")["items"],
            lambda pods: [phase(pod) for pod in pods] == ["Running"] * 4,
        )
        assert sorted(pod["spec"]["nodeName"] for pod in pods) == names
    finally:
        cluster.kubectl("delete", "nodes", *names)
        gpus.set_gpus(cluster.kubectl, DEFAULT_GPUS)


def test_job_of_two_workers_succeeds(namespace: Namespace) -> None:
    resolve = (
        "import os, socket, time\n"
        "for index in range(2):\n"
        "    while True:\n"
        "        try:\n"
        "            socket.gethostbyname(f'job-worker-{index}')\n"
        "            break\n"
        "        except OSError:\n"
        "            time.sleep(0.5)\n"
        "print(os.environ['INDEX'], os.environ['PET_NNODES'])\n"
    )
    create_job(namespace, ["python3", "-u", "-c", resolve])
    job = wait_for_job(namespace, "Succeeded")
    assert job["status"]["replicaStatuses"]["Worker"]["succeeded"] == 2
    for index in range(2):
        assert namespace.kubectl("logs", f"job-worker-{index}") == f"{index} 2\n"


def test_exit_code_below_128_is_permanent_and_frees_the_peer(namespace: Namespace) -> None:
    script = "import os, sys, time; os.environ['INDEX'] == '0' and time.sleep(3600); sys.exit(1)"
    create_job(namespace, ["python3", "-c", script], gpus_per_pod=4)
    wait_for_job(namespace, "Failed")
    wait_for(
        "only the failed pod is left",
        lambda: [pod["metadata"]["name"] for pod in namespace.kubectl.get("pods")["items"]],
        lambda names: names == ["job-worker-1"],
    )
    assert phase(namespace.kubectl.get("pod", "job-worker-1")) == "Failed"


def test_exit_code_from_128_recreates_only_that_pod(namespace: Namespace) -> None:
    create_job(namespace, ["python3", "-c", FAIL_ONCE, "200"])
    wait_for_job(namespace, "Succeeded")
    assert len(namespace.read("0").split()) == 1
    first, second = namespace.read("1").split()
    assert first != second


def test_eviction_goes_through_the_api(namespace: Namespace) -> None:
    create_job(namespace, SLEEP)
    before = namespace.wait_for_pod("job-worker-0", is_ready)["metadata"]["uid"]
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": "job-worker-0", "namespace": namespace.name},
    }
    path = f"/api/v1/namespaces/{namespace.name}/pods/job-worker-0/eviction"
    namespace.kubectl("create", f"--raw={path}", "--filename=-", stdin=json.dumps(eviction))
    namespace.wait_for_pod(
        "job-worker-0", lambda pod: pod["metadata"]["uid"] != before and is_ready(pod)
    )


def test_drained_node_takes_no_pod_until_uncordoned(cluster: Cluster, namespace: Namespace) -> None:
    create_job(namespace, SLEEP, replicas=1)
    namespace.wait_for_pod("job-worker-0", is_ready)
    selector = f"--pod-selector=training.kubeflow.org/job-name=job"
    try:
        cluster.kubectl("drain", NODE_NAME, selector, "--force", "--ignore-daemonsets")
        namespace.wait_for_pod(
            "job-worker-0", lambda pod: has_condition(pod, "PodScheduled", "False")
        )
    finally:
        cluster.kubectl("uncordon", NODE_NAME)
    namespace.wait_for_pod("job-worker-0", is_ready)


def test_api_server_may_die(cluster: Cluster, namespace: Namespace) -> None:
    namespace.kubectl.create(namespace.pod("survivor", SLEEP))
    before = namespace.wait_for_pod("survivor", is_ready)
    cluster.kill("kube-apiserver")
    try:
        with pytest.raises(CommandError, match="refused"):
            namespace.kubectl("get", "pods")
    finally:
        cluster.start("kube-apiserver")
    after = namespace.wait_for_pod("survivor", is_ready)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"]["containerStatuses"][0]["restartCount"] == 0
    assert namespace.run("newcomer", ["echo", "hello"]) == "hello\n"


@pytest.mark.parametrize("component", ["kubelet", "containerd"])
def test_node_component_may_die(cluster: Cluster, namespace: Namespace, component: str) -> None:
    namespace.kubectl.create(namespace.pod("survivor", SLEEP, gpus=DEFAULT_GPUS))
    before = namespace.wait_for_pod("survivor", is_ready)
    cluster.restart(component)
    after = namespace.wait_for_pod("survivor", is_ready)
    assert after["status"]["containerStatuses"] == before["status"]["containerStatuses"]
    assert namespace.run("newcomer", ["echo", "hello"]) == "hello\n"


def test_training_operator_may_die(cluster: Cluster, namespace: Namespace) -> None:
    create_job(namespace, ["python3", "-c", FAIL_ONCE, "200"])
    scope = f"--namespace={OPERATOR_NAMESPACE}"
    cluster.kubectl(scope, "delete", "pods", "--all", "--grace-period=0", "--force")
    cluster.kubectl(scope, "rollout", "status", f"deployment/{OPERATOR}", "--timeout=100s")
    wait_for_job(namespace, "Succeeded")


@pytest.fixture
def queue(cluster: Cluster, namespace: Namespace) -> Iterator[str]:
    """A LocalQueue of 4 GPUs in the test's namespace; Kueue is removed afterwards."""
    cluster.enable_kueue(pytorchjob=True)
    api = {"apiVersion": "kueue.x-k8s.io/v1beta1"}
    quota = [{"name": "cpu", "nominalQuota": 64}, {"name": gpus.GPU_RESOURCE, "nominalQuota": 4}]
    cluster.kubectl.apply(
        {**api, "kind": "ResourceFlavor", "metadata": {"name": "default"}},
        {
            **api,
            "kind": "ClusterQueue",
            "metadata": {"name": "shared"},
            "spec": {
                "namespaceSelector": {},
                "resourceGroups": [
                    {
                        "coveredResources": [item["name"] for item in quota],
                        "flavors": [{"name": "default", "resources": quota}],
                    }
                ],
            },
        },
    )
    namespace.kubectl.create(
        {
            **api,
            "kind": "LocalQueue",
            "metadata": {"name": "team"},
            "spec": {"clusterQueue": "shared"},
        }
    )
    yield "team"
    namespace.delete()
    namespace.wait_until_gone()  # Kueue itself takes the finalizers off its objects
    cluster.disable_kueue()


def workloads(namespace: Namespace) -> list[str]:
    """The kinds of the jobs that Kueue has taken under its control."""
    found = namespace.kubectl.get("workloads.kueue.x-k8s.io")["items"]
    return sorted(item["metadata"]["ownerReferences"][0]["kind"] for item in found)


def test_kueue_admits_a_suspended_job(namespace: Namespace, queue: str) -> None:
    create_job(namespace, ["echo", "admitted"], gpus_per_pod=2, queue=queue)
    wait_for_job(namespace, "Succeeded")
    assert workloads(namespace) == ["PyTorchJob"]


def test_kueue_keeps_a_job_beyond_its_quota_waiting(namespace: Namespace, queue: str) -> None:
    create_job(namespace, ["echo", "never"], gpus_per_pod=3, queue=queue)
    found = wait_for(
        "the workload is refused",
        lambda: namespace.kubectl.get("workloads.kueue.x-k8s.io")["items"],
        lambda items: bool(items) and has_condition(items[0], "QuotaReserved", "False"),
    )
    assert "nvidia.com/gpu" in json.dumps(found[0]["status"]["conditions"])
    assert namespace.kubectl.get("pods")["items"] == []


def test_kueue_without_its_pytorchjob_integration_leaves_it_suspended(
    cluster: Cluster, namespace: Namespace, queue: str
) -> None:
    cluster.enable_kueue(pytorchjob=False)
    create_job(namespace, ["echo", "never"], queue=queue)
    # Kueue works: a Job of the same queue, created after, is admitted and ends.
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "control", "labels": {"kueue.x-k8s.io/queue-name": queue}},
        "spec": {
            "suspend": True,
            "template": {"spec": pod_spec(namespace.image, ["echo", "admitted"])},
        },
    }
    namespace.kubectl.create(job)
    namespace.wait_for_object("job", "control", lambda found: has_condition(found, "Complete"))
    assert workloads(namespace) == ["Job"]
    assert namespace.kubectl.get("pytorchjob", "job")["spec"]["runPolicy"]["suspend"] is True


def test_a_failed_test_would_leave_evidence(namespace: Namespace, tmp_path: object) -> None:
    namespace.run("hello", ["echo", '{"said": "hello"}'])
    from pathlib import Path

    folder = Path(str(tmp_path)) / "failed"
    namespace.save(folder)
    assert {path.name for path in folder.iterdir()} >= {"objects.yaml", "events.txt", "hello.log"}
    line = (folder / "hello.log").read_text().partition(" ")[2]
    assert log_lines(line) == [{"said": "hello"}]


def test_kubeconfig_file_stands_alone(kubectl: Kubectl, cluster: Cluster) -> None:
    text = cluster.kubeconfig.read_text()
    assert "certificate-authority-data" in text
    assert str(cluster.state.root) not in text
