"""How often a stage's pods have come back, counted by what an API server still tells."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from clusterfit.launch.api import EVENTS, JOBS, PODS, PYTORCHJOBS, Api
from clusterfit.launch.plan import Plan, PlannedStage, Release
from clusterfit.launch.status import read_status

from .object_server import Objects, serve_objects, worker_pod

EXTRACT = PlannedStage(
    "extract", "PyTorchJob", "digits-extract", 2, 8, 8, "nvidia.com/gpu",
    ("digits-extract-worker-0", "digits-extract-worker-1"), 0, 0,
)  # fmt: skip
CLUSTER = PlannedStage("cluster", "Job", "digits-cluster", 1, 8, 8, "nvidia.com/gpu", (), 0, 0)


@pytest.fixture
def cluster() -> Iterator[tuple[Api, Objects]]:
    with serve_objects() as (api, objects):
        for resource, stage in ((PYTORCHJOBS, EXTRACT), (JOBS, CLUSTER)):
            metadata = {
                "name": stage.name,
                "uid": f"uid-of-{stage.name}",
                "creationTimestamp": "2026-11-23T12:00:00Z",
            }
            objects.put(resource, {"metadata": metadata, "spec": {}, "status": {}})
        yield api, objects


def place(objects: Objects, pod: str, uid: str, second: int, **other: str) -> None:
    """Tell that the scheduler has placed a pod."""
    event = {
        "metadata": {"name": f"{pod}.{uid}", "creationTimestamp": "2026-11-23T13:00:00Z"},
        "involvedObject": {"kind": "Pod", "name": pod, "uid": uid},
        "reason": "Scheduled",
        "eventTime": f"2026-11-23T12:00:{second:02}.123456Z",
        **other,
    }
    objects.put(EVENTS, event)


def count(api: Api, stage: PlannedStage) -> int:
    plan = Plan("digits", "digits-step1", "team", (stage,), "none", "", "cluster")
    (status,) = read_status(
        api, "digits", [Release(plan, "digest", "2026-11-23T12:00:00Z", {}, is_helm=True)]
    ).stages
    return status.restarts


def test_pods_that_are_gone_have_been_placed(cluster: tuple[Api, Objects]) -> None:
    """A job's own events cannot tell: a controller's 26th of one object is dropped."""
    api, objects = cluster
    names = EXTRACT.pods
    for second, node in enumerate((0, 1, 0, 1, 1)):
        place(objects, names[node], f"uid-{second}", second)
    assert count(api, EXTRACT) == 3


def test_a_pod_that_waits_for_its_node_has_come_back(cluster: tuple[Api, Objects]) -> None:
    api, objects = cluster
    for node, name in enumerate(EXTRACT.pods):
        place(objects, name, f"uid-{node}", 0)
    objects.put(PODS, worker_pod(EXTRACT, EXTRACT.pods[0]))
    assert count(api, EXTRACT) == 1
    place(objects, EXTRACT.pods[0], f"uid-of-{EXTRACT.pods[0]}", 9)
    assert count(api, EXTRACT) == 1, "the same pod"


def test_pods_of_other_jobs_do_not_count(cluster: tuple[Api, Objects]) -> None:
    api, objects = cluster
    place(objects, EXTRACT.pods[0], "of-a-run-before", 0, eventTime="2026-11-23T11:59:59.999999Z")
    for number in range(3):
        place(objects, f"digits-extract-worker-{number + 2}", f"wider-{number}", 1)
        place(objects, f"other-extract-worker-{number}", f"other-{number}", 1)
        place(objects, f"digits-cluster-more-x{number}", f"more-{number}", 1)
    place(objects, EXTRACT.pods[0], "first", 0)
    place(objects, EXTRACT.pods[1], "second", 0)
    assert count(api, EXTRACT) == 0
    place(objects, "digits-cluster-abcde", "third", 0)
    assert count(api, CLUSTER) == 0


def test_a_job_s_pods_have_names_by_chance_and_stay(cluster: tuple[Api, Objects]) -> None:
    api, objects = cluster
    objects.put(PODS, worker_pod(CLUSTER, "digits-cluster-abcde", code=203))
    objects.put(PODS, worker_pod(CLUSTER, "digits-cluster-fghij", second=1))
    assert count(api, CLUSTER) == 1, "events are forgotten after an hour"
    place(objects, "digits-cluster-klmno", "deleted", 0)
    assert count(api, CLUSTER) == 2


def test_a_pod_that_failed_for_good_has_not_come_back(cluster: tuple[Api, Objects]) -> None:
    api, objects = cluster
    objects.put(PODS, worker_pod(CLUSTER, "digits-cluster-abcde", code=65))
    place(objects, "digits-cluster-abcde", "uid-of-digits-cluster-abcde", 0)
    assert count(api, CLUSTER) == 0
