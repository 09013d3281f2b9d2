"""Whatever dies while a stage trains, it comes back and ends in the same weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from clusterfit.artifacts.layout import RunDirectory
from tests.cluster.addons import OPERATOR_NAMESPACE
from tests.cluster.cluster import Cluster
from tests.cluster.commands import wait_for
from tests.cluster.manifests import Object, phase
from tests.cluster.node import NODE_NAME
from tests.e2e.artifacts import check_same_features, check_same_training, check_whole
from tests.e2e.digits import RUN, SLOW_VIEW, run_here
from tests.e2e.holds import THIRD_EPOCH, held, hooked, let_go
from tests.e2e.product import Product, uids
from tests.e2e.said import read_copies, read_shown

RECOVERY_SECONDS = 300
"""From a fault to the end of a stage that has seconds of work left: a start of torch on a busy
machine, twice, and what cached DNS adds."""


TRAIN_AND_EVALUATE = {
    "stages": ["train", "evaluate"],
    "evaluate.backbones": [{"label": "ClusterFit", "from": "run", "stage": "train"}],
}


def start_training(
    product: Product,
    reference: RunDirectory,
    step: str = "step2",
    changes: dict[str, Any] | None = None,
    lines: Mapping[str, str] = THIRD_EPOCH,
) -> list[str]:
    """Submit step 2, which stays where it has made some checkpoints; return its pods' uids."""
    product.put_results(reference, "pretext", "extract", "cluster")
    held(product, lines).submit(step, changes)
    product.wait_for_line("train", "msg=held at=third")
    return uids(product.pods("train"))


def check_training(product: Product, reference: RunDirectory) -> None:
    """Wait until the training is over and hold its weights against the reference's."""
    product.wait_for_success("train", timeout_seconds=RECOVERY_SECONDS)
    ours = product.fetch()
    check_whole(ours)
    check_same_training(ours, reference, "train")


@pytest.mark.parametrize(("fault", "node"), [("deleted", 1), ("force-deleted", 0), ("evicted", 1)])
def test_lost_pod_comes_back_and_the_training_goes_on(
    product: Product, reference: RunDirectory, fault: str, node: int
) -> None:
    before = start_training(product, reference)
    pod = f"{RUN}-train-worker-{node}"
    if fault == "evicted":
        product.evict_pod(pod)
    else:
        product.delete_pod(pod, by_force=fault == "force-deleted")
    let_go(product, "third")
    check_training(product, reference)
    # The lost one was made anew, and so was its peer: they meet again in one attempt.
    assert not set(before) & set(uids(product.pods("train")))
    assert "msg=resumed" in product.log(f"{RUN}-train-worker-0")


def test_node_that_does_not_answer_is_named_and_its_supervisor_replaced(
    cluster: Cluster, product: Product, reference: RunDirectory
) -> None:
    """Kubernetes keeps the pods that are to end there as it saw them last: running."""
    start_training(product, reference, "pipeline", TRAIN_AND_EVALUATE)
    (supervisor,) = product.wait_for_pods("", lambda pods: len(pods) == 1, role="supervisor")
    lost = f"{RUN}-train-worker-1"
    cluster.kill("kubelet")
    soon = ("--grace-period=1", "--wait=false")
    product.namespace.kubectl("delete", "pods", lost, supervisor["metadata"]["name"], *soon)
    why = f"{lost}: its node {NODE_NAME} does not say that it has ended"
    said = product.wait_for_cause("train", why, timeout_seconds=RECOVERY_SECONDS)
    assert (said["phase"], said["pods"]) == ("starting", {"running": 1, "wanted": 2})
    assert f"kubectl delete node {NODE_NAME}" in said["advice"]
    (successor,) = (
        pod["metadata"]["name"]
        for pod in product.pods("", role="supervisor")
        if "deletionTimestamp" not in pod["metadata"]
    )
    cluster.start("kubelet")
    let_go(product, "third")
    product.wait_for_success("train", "evaluate", timeout_seconds=RECOVERY_SECONDS)
    assert "msg=released stage=evaluate" in product.log(successor)
    check_training(product, reference)


def test_training_waits_out_a_drained_node(
    cluster: Cluster, product: Product, reference: RunDirectory
) -> None:
    start_training(product, reference)
    selector = f"--pod-selector=clusterfit.dev/run={RUN},clusterfit.dev/stage=train"
    try:
        drain = ("drain", NODE_NAME, selector, "--force", "--delete-emptydir-data")
        cluster.kubectl(*drain, timeout_seconds=RECOVERY_SECONDS)
        product.wait_for_pods("train", lambda pods: [phase(pod) for pod in pods] == ["Pending"] * 2)
        product.wait_for_cause("train", "unschedulable")
        code, stages = product.status()
        assert (code, stages["train"]["phase"]) == (0, "starting")
    finally:
        cluster.kubectl("uncordon", NODE_NAME)
    let_go(product, "third")
    check_training(product, reference)


def test_training_and_its_reader_outlive_the_control_plane(
    cluster: Cluster, product: Product, reference: RunDirectory
) -> None:
    lines = {**THIRD_EPOCH, "fiftieth": r"msg=epoch epoch=50 "}
    start_training(product, reference, "pipeline", TRAIN_AND_EVALUATE, lines)
    (supervisor,) = product.wait_for_pods("", lambda pods: len(pods) == 1, role="supervisor")
    with product.begin("logs", RUN, "train", "--follow") as follow:
        follow.wait_until(lambda typed: any("msg=held" in line for line in typed.lines))
        operator = ("delete", "pods", "--all", "--force", "--grace-period=0")
        cluster.kubectl(f"--namespace={OPERATOR_NAMESPACE}", *operator)
        product.kill_rank("train", rank=1)  # while no operator is there to see it
        product.wait_for_line("train", "msg=resumed")
        cluster.kill("kube-apiserver")
        follow.wait_until(lambda typed: any("no answer from" in said for said in typed.remarks))
        wait_for(
            "the supervisor misses it", lambda: "msg=retrying" in read_log(cluster, supervisor)
        )
        # It misses more lines of a pod that lives on than it has read of it.
        follow.freeze()
        cluster.start("kube-apiserver")
        let_go(product, "third")
        product.wait_for_line("train", "msg=held at=fiftieth")
        follow.thaw()
        follow.wait_until(lambda typed: any("msg=held at=fiftieth" in line for line in typed.lines))
        let_go(product, "fiftieth")
        check_training(product, reference)
        followed = follow.wait(60).expect(0)
    product.wait_for_success("evaluate")
    copies = read_copies(product.fetch(), "train")
    assert read_shown(followed.stdout) == {0: copies[0]}
    outlived = product.wait_for_pods(
        "", lambda pods: phase(pods[0]) == "Succeeded", role="supervisor"
    )
    assert uids(outlived) == uids([supervisor]), "it waited for the API server"


def read_log(cluster: Cluster, pod: Object) -> str:
    """Return what a pod has said, as its node keeps it: no API server is asked."""
    names = (pod["metadata"][key] for key in ("namespace", "name", "uid"))
    logs = (cluster.state.pod_logs / "_".join(names)).glob("*/*.log")
    return "".join(log.read_text() for log in logs)


def test_supervisor_that_was_replaced_releases_the_next_stage(
    product: Product, reference: RunDirectory
) -> None:
    start_training(product, reference, "pipeline", TRAIN_AND_EVALUATE)
    (before,) = product.pods("", role="supervisor")
    product.delete_pod(before["metadata"]["name"], by_force=True)

    def find_successor(pods: list[Object]) -> list[str]:
        return [
            pod["metadata"]["name"]
            for pod in pods
            if pod["metadata"]["uid"] != before["metadata"]["uid"] and phase(pod) == "Running"
        ]

    now = product.wait_for_pods("", lambda pods: bool(find_successor(pods)), role="supervisor")
    let_go(product, "third")
    product.wait_for_success("train", "evaluate")
    assert "msg=released stage=evaluate" in product.log(find_successor(now)[0])
    check_training(product, reference)


# Enough work for somebody to be killed in the middle of it, also where it is done fast.
SLOW_EXTRACT = {
    "stages": ["extract"],
    **SLOW_VIEW,
    "extract.resizePixels": 448,
    "extract.cropPixels": 416,
    "extract.weights": {"from": "random"},
}


def test_extract_without_collectives_notices_a_lost_pod(
    product: Product, images: Path, tmp_path: Path
) -> None:
    # Rank 0 stays in its loop, with a part in its hands. The others go on.
    held(product, {"first": r"msg=progress done=[1-9]"}).submit("extract", SLOW_EXTRACT)
    product.wait_for_line("extract", "msg=held at=first")
    parts = f"/claim/{RUN}/extract/res5avg/train/part-*"
    look = ["sh", "-c", f"stat --format='%n %i %s %Y' {parts} || true"]
    before = wait_for("a first part", lambda: product.namespace.run_on_claim(look).splitlines())
    pods = uids(product.pods("extract"))
    product.delete_pod(f"{RUN}-extract-worker-1", by_force=True)
    # It comes back by itself. The survivor, who needs nobody in its loop, must notice all the same.
    product.wait_for_pods(
        "extract",
        lambda now: len(now) == 2 and not set(pods) & set(uids(now)),
        timeout_seconds=120,
    )
    let_go(product, "first")
    product.wait_for_success("extract", timeout_seconds=RECOVERY_SECONDS)
    after = product.namespace.run_on_claim(look).splitlines()
    assert set(before) <= set(after), "what was there was made again"
    ours = product.fetch()
    survivor = ours.rank_log("extract", 1, 0).read_text()
    assert "stopped by SIGTERM; what is finished is kept" in survivor
    assert len(re.findall("msg=progress done=[1-9]", survivor)) == 1, "in its loop, not after it"
    check_whole(ours)
    check_same_features(ours, run_here("extract", images, tmp_path / "here", SLOW_EXTRACT))


# Runs inside the workers: one node is frozen when its stage is done and it should say so, until it
# may. It does not even watch the others.
LINGER = """
import os, time
if os.getpid() == 1 and os.environ["PET_NODE_RANK"] == os.environ["LINGERS"]:
    if not os.path.exists("/storage/enough"):
        from clusterfit.worker.entry.gang import Gang
        def linger(gang, code):
            gang._parted.set()
            time.sleep(3600)
        Gang.leave = linger
"""


@pytest.mark.parametrize("node", [0, 1])  # node 0 hosts what the others meet at
def test_node_that_dies_after_its_peer_has_finished_does_not_wait_for_it(
    product: Product, reference: RunDirectory, node: int
) -> None:
    product.put_results(reference, "pretext", "extract", "cluster")
    hooked(product, LINGER, LINGERS=str(node)).submit("step2")
    pods = product.wait_for_pods(
        "train", lambda pods: sorted(phase(pod) for pod in pods) == ["Running", "Succeeded"]
    )
    assert phase(pods[node]) == "Running"
    wait_for(
        "status counts whoever has succeeded",
        product.status,
        lambda said: said[1]["train"]["phase"] == "running",
    )
    peer = uids(pods)[1 - node]
    product.namespace.run_on_claim(["touch", "/claim/enough"])
    product.delete_pod(f"{RUN}-train-worker-{node}", by_force=True)
    # Its peer has ended well and is not started again: there is nobody to meet.
    check_training(product, reference)
    assert uids(product.pods("train"))[1 - node] == peer
    assert "already finished" in product.log(f"{RUN}-train-worker-{node}")
