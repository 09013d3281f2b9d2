"""Proofs that Kueue on the test cluster admits, holds back and ignores."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.cluster import gpus
from tests.cluster.cluster import Cluster
from tests.cluster.commands import wait_for
from tests.cluster.kueue import KUEUE_NAMESPACE
from tests.cluster.manifests import has_condition, pod_spec, pytorchjob
from tests.cluster.namespace import Namespace
from tests.e2e.remains import sign

QUEUE = "team"
QUOTA = [{"name": "cpu", "nominalQuota": 64}, {"name": gpus.GPU_RESOURCE, "nominalQuota": 4}]
API = {"apiVersion": "kueue.x-k8s.io/v1beta1"}
FLAVOR = {**API, "kind": "ResourceFlavor", "metadata": {"name": "default"}}
CLUSTER_QUEUE = {
    **API,
    "kind": "ClusterQueue",
    "metadata": {"name": "shared"},
    "spec": {
        "namespaceSelector": {},
        "resourceGroups": [
            {
                "coveredResources": [resource["name"] for resource in QUOTA],
                "flavors": [{"name": "default", "resources": QUOTA}],
            }
        ],
    },
}
LOCAL_QUEUE = {
    **API,
    "kind": "LocalQueue",
    "metadata": {"name": QUEUE},
    "spec": {"clusterQueue": "shared"},
}


@pytest.fixture(scope="module")
def kueue(cluster: Cluster) -> Iterator[None]:
    """Kueue with a ClusterQueue of 4 GPUs, removed with all its objects when the module ends."""
    try:
        cluster.enable_kueue(pytorchjob=True)
        sign(cluster.kubectl, KUEUE_NAMESPACE)
        cluster.kubectl.apply(FLAVOR, CLUSTER_QUEUE)
        yield
    finally:
        cluster.disable_kueue()


def create_job(namespace: Namespace, *, gpus_per_pod: int = 0) -> None:
    """Create a LocalQueue, and the PyTorchJob `job` that goes through it."""
    command = ["echo", "admitted"]
    job = pytorchjob("job", namespace.image, command, gpus_per_pod=gpus_per_pod, queue=QUEUE)
    namespace.kubectl.create(LOCAL_QUEUE, job)


def workloads(namespace: Namespace) -> list[str]:
    """The kinds of the jobs that Kueue has taken under its control."""
    found = namespace.kubectl.get("workloads.kueue.x-k8s.io")["items"]
    return sorted(item["metadata"]["ownerReferences"][0]["kind"] for item in found)


def test_kueue_admits_a_suspended_job(namespace: Namespace, kueue: None) -> None:
    create_job(namespace, gpus_per_pod=2)
    namespace.wait_for_object("pytorchjob", "job", lambda job: has_condition(job, "Succeeded"))
    assert workloads(namespace) == ["PyTorchJob"]


def test_kueue_keeps_a_job_beyond_its_quota_waiting(namespace: Namespace, kueue: None) -> None:
    create_job(namespace, gpus_per_pod=3)
    found = wait_for(
        "the workload is refused",
        lambda: namespace.kubectl.get("workloads.kueue.x-k8s.io")["items"],
        lambda items: bool(items) and has_condition(items[0], "QuotaReserved", "False"),
    )
    assert "nvidia.com/gpu" in json.dumps(found[0]["status"]["conditions"])
    assert namespace.kubectl.get("pods")["items"] == []


def test_kueue_without_its_pytorchjob_integration_leaves_it_suspended(
    cluster: Cluster, namespace: Namespace, kueue: None
) -> None:
    cluster.enable_kueue(pytorchjob=False)
    create_job(namespace)
    # Kueue works: a Job of the same queue, created after, is admitted and ends.
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "control", "labels": {"kueue.x-k8s.io/queue-name": QUEUE}},
        "spec": {
            "suspend": True,
            "template": {"spec": pod_spec(namespace.image, ["echo", "admitted"])},
        },
    }
    namespace.kubectl.create(job)
    namespace.wait_for_object("job", "control", lambda found: has_condition(found, "Complete"))
    assert workloads(namespace) == ["Job"]
    assert namespace.kubectl.get("pytorchjob", "job")["spec"]["runPolicy"]["suspend"] is True
