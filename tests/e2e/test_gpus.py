"""GPUs that only the scheduler counts.

`clusterfit submit step1 --gpus 32` on four nodes of eight, which exist on paper only: scheduling,
quotas of nodes and the supervisor are real; what the GPU nodes run is not: their pods are told by
the test to have ended.

And pods that run, on the real node, which counts eight GPUs and has none.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import gpus
from tests.cluster.cluster import DEFAULT_GPUS, Cluster
from tests.cluster.commands import wait_for
from tests.cluster.manifests import Object, pod_spec
from tests.cluster.node import NODE_NAME
from tests.cluster.paths import CHECKOUT
from tests.e2e.artifacts import check_same_features, check_whole
from tests.e2e.digits import run_here
from tests.e2e.endings import check_failed, exit_code
from tests.e2e.product import STAGE_SECONDS, Product, how_it_ended

RUN = "imagenet"
NODES, PER_NODE = 4, 8
TAINT = {"key": gpus.GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}


@pytest.fixture
def thirty_two_gpus(cluster: Cluster) -> Iterator[None]:
    """Four nodes of eight GPUs, tainted as GPU nodes are, and none anywhere else."""
    try:
        gpus.set_gpus(cluster.kubectl, 0)
        for node in cluster.pretend_nodes(NODES, PER_NODE):
            cluster.kubectl("taint", "node", node, f"{gpus.GPU_RESOURCE}=present:NoSchedule")
        yield
    finally:
        try:
            cluster.forget_pretended_nodes()
        finally:
            gpus.set_gpus(cluster.kubectl, DEFAULT_GPUS)


def submit(user: Product) -> str:
    """Type the command of the README's first lines, on the example of full size."""
    overlay = user.write_overlay(tolerations=[TAINT])
    files = ("-f", CHECKOUT / "examples/imagenet.yaml", "-f", overlay)
    return user.succeed("submit", "step1", "--gpus", "32", *files).stdout


def gpu_pods(user: Product) -> list[Object]:
    """Return the pods that ask for GPUs and have not ended."""
    return [
        pod
        for pod in user.namespace.kubectl.get("pods")["items"]
        if asked(pod) and pod["status"]["phase"] in ("Pending", "Running")
    ]


def asked(pod: Object) -> int:
    """Return how many GPUs a pod asks for."""
    return sum(
        int(container["resources"].get("limits", {}).get(gpus.GPU_RESOURCE, "0"))
        for container in pod["spec"]["containers"]
    )


def wait_until_scheduled(user: Product, wanted: int) -> list[Object]:
    """Wait until GPU pods have a node; return all of them."""
    return wait_for(
        f"{wanted} GPU pods have a node",
        lambda: gpu_pods(user),
        lambda pods: sum("nodeName" in pod["spec"] for pod in pods) == wanted,
    )


def end(user: Product, pod: Object) -> None:
    """Let a pod that runs nothing have ended well."""
    done = {"status": {"phase": "Succeeded"}}
    user.namespace.kubectl(
        "patch", "pod", pod["metadata"]["name"], "--subresource=status", "--type=merge",
        f"--patch={json.dumps(done)}",
    )  # fmt: skip


def wait_for_stage(user: Product, kind: str, stage: str) -> None:
    """Wait until a stage of the run has succeeded."""
    user.namespace.wait_for_object(
        kind, f"{RUN}-{stage}", lambda job: how_it_ended(job) == "succeeded"
    )


def test_step1_fills_four_nodes_of_eight_and_asks_for_no_more(
    user: Product, thirty_two_gpus: None
) -> None:
    said = submit(user)
    assert "extract  4 nodes x 8 GPUs" in said
    assert "cluster  1 node x 8 GPUs" in said
    extract = wait_until_scheduled(user, NODES)
    assert Counter({pod["spec"]["nodeName"]: asked(pod) for pod in extract}) == Counter(
        {f"pretended-{index}": PER_NODE for index in range(NODES)}
    )
    for pod in extract:
        end(user, pod)
    wait_for_stage(user, "pytorchjob", "extract")
    # The supervisor, which runs on a real node, releases the next; kwok lets a Job's pod end.
    wait_for_stage(user, "job", "cluster")
    pods = user.namespace.kubectl.get("pods", f"--selector=clusterfit.dev/run={RUN}")["items"]
    (cluster,) = (pod for pod in pods if pod["metadata"]["labels"].get(
        "clusterfit.dev/stage") == "cluster")  # fmt: skip
    assert asked(cluster) == PER_NODE
    assert cluster["spec"]["nodeName"].startswith("pretended-")
    (supervisor,) = (pod for pod in pods if not asked(pod))
    assert supervisor["spec"]["nodeName"] == NODE_NAME
    assert user.succeed("wait", RUN, timeout_seconds=STAGE_SECONDS).code == 0


def test_with_31_free_gpus_status_says_what_is_missing(
    user: Product, thirty_two_gpus: None
) -> None:
    occupant = pod_spec(user.namespace.image, ["sleep", "infinity"], gpus=1)
    occupant["tolerations"] = [TAINT]
    metadata = {"name": "occupant"}
    user.namespace.kubectl.create(
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": occupant}
    )
    user.namespace.wait_for_pod("occupant", lambda pod: pod["status"]["phase"] == "Running")
    submit(user)
    wait_until_scheduled(user, NODES)  # three of ours, and the occupant
    stage = wait_for(
        "status names the cause",
        lambda: json.loads(user.succeed("status", RUN, "--output=json").stdout)["stages"][0],
        lambda stage: "no node" in stage.get("cause", "") and stage["pods"]["running"] == NODES - 1,
    )
    assert stage["phase"] == "starting"
    assert stage["pods"] == {"running": NODES - 1, "wanted": NODES}
    assert f"-worker-3: no node has {PER_NODE} {gpus.GPU_RESOURCE} free" in stage["cause"]
    assert "--gpus" in stage["advice"]
    user.namespace.kubectl("delete", "pod", "occupant")
    pods = wait_until_scheduled(user, NODES)
    assert sum(map(asked, pods)) == NODES * PER_NODE


EXTRACT = {"stages": ["extract"], "extract.weights": {"from": "random"}}
TWO_GPUS = {"platform.gpus": 2, "platform.gpusPerNode": 1, "platform.processesPerNode": 1}


def test_pods_with_gpus_work_on_the_cpu_where_that_is_asked_for(
    cluster: Cluster, product: Product, images: Path, tmp_path: Path
) -> None:
    answer = product.submit("extract", {**EXTRACT, **TWO_GPUS, "device": "cpu"})
    assert "note: device: cpu, yet GPUs are asked for" in answer.stderr
    product.wait_for_success("extract")
    pods = product.pods("extract")
    assert [(asked(pod), exit_code(pod)) for pod in pods] == [(1, 0)] * 2
    assert {pod["spec"]["nodeName"] for pod in pods} == {NODE_NAME}
    ours = product.fetch()
    check_whole(ours)
    check_same_features(ours, run_here("extract", images, tmp_path / "here", EXTRACT))


def test_pods_that_see_none_of_their_gpus_say_so_and_give_up(
    cluster: Cluster, product: Product
) -> None:
    product.submit("extract", {**EXTRACT, **TWO_GPUS, "device": "cuda"})
    check_failed(product, "extract", 70, "3 attempts in a row made no progress")
    ours = product.fetch()
    for attempt in (1, 2, 3):  # another node may have what this one lacks
        said = ours.rank_log("extract", attempt, 0).read_text()
        assert "device: cuda is asked for, but local rank 0 sees 0 GPUs" in said
        assert "exit_code=203" in said
    assert not ours.rank_log("extract", 4, 0).exists()
