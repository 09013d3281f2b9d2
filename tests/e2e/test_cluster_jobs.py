"""Proofs that PyTorchJobs on the test cluster live, fail and survive as the product expects."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster.addons import OPERATOR, OPERATOR_NAMESPACE
from tests.cluster.cluster import DEFAULT_GPUS, Cluster
from tests.cluster.commands import CommandError, wait_for
from tests.cluster.manifests import Object, has_condition, is_ready, phase, pytorchjob
from tests.cluster.namespace import STORAGE_CLAIM, Namespace
from tests.cluster.node import NODE_NAME

SLEEP = ["sleep", "infinity"]

# Appends the pod's uid to a file of its replica; replica 1's first life ends with a given code.
FAIL_ONCE = """
import os, sys
path = f"/storage/{os.environ['INDEX']}"
with open(path, "a") as lives:
    print(os.environ["POD_UID"], file=lives, flush=True)
with open(path) as lives:
    first = len(lives.readlines()) == 1
sys.exit(int(sys.argv[1]) if first and os.environ["INDEX"] == "1" else 0)
"""


def create_job(namespace: Namespace, command: list[str], **settings: Any) -> None:
    """Create the PyTorchJob `job` with the storage claim mounted."""
    mounts = {"/storage": STORAGE_CLAIM}
    job = pytorchjob("job", namespace.image, command, claims=mounts, **settings)
    namespace.kubectl.create(job)


def wait_for_job(namespace: Namespace, condition: str) -> Object:
    """Wait until the PyTorchJob `job` has a condition."""
    return namespace.wait_for_object(
        "pytorchjob", "job", lambda job: has_condition(job, condition), timeout_seconds=180
    )


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


@pytest.mark.usefixtures("cluster")  # elsewhere there may be no GPUs
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
    selector = "--pod-selector=training.kubeflow.org/job-name=job"
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
