"""What cannot succeed ends: with the right exit code, in words that help, and holding nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from clusterfit.artifacts.layout import RunDirectory
from tests.cluster.cluster import Cluster
from tests.cluster.manifests import claim, has_condition, phase
from tests.cluster.storage import SMALL_CLASS
from tests.e2e.artifacts import check_same_training, check_whole
from tests.e2e.digits import RARELY, RUN
from tests.e2e.endings import BOUND_SECONDS, check_failed, check_suspended
from tests.e2e.holds import THIRD_EPOCH, held, hooked, let_go
from tests.e2e.product import Product
from tests.e2e.said import read_stop


def test_worker_that_fails_for_good_frees_its_peers(product: Product) -> None:
    words = ("submit", "pretext", "-f", product.write({"data.train": "nowhere/train"}), "--follow")
    assert "nowhere/train" in product.type(*words, timeout_seconds=BOUND_SECONDS).expect(1).stdout
    check_failed(product, "pretext", 66, "nowhere/train")
    assert "nowhere/train" in product.type("logs", RUN, "--follow").expect(1).stdout
    # Node 1 waited for node 0 and would hold its GPUs for ever.
    product.wait_for_pods(
        "pretext",
        lambda pods: [pod["metadata"]["name"] for pod in pods] == [f"{RUN}-pretext-worker-0"],
        timeout_seconds=30,
    )


def test_worker_that_crashes_again_and_again_gives_up(product: Product) -> None:
    no_such_network = [{"name": "GLOO_SOCKET_IFNAME", "value": "nothing0"}]
    product.submit("pretext", {"platform.extraEnv": no_such_network})
    check_failed(product, "pretext", 70, "3 attempts in a row made no progress")


# Node 1 crashes after it has met node 0, each time that it comes back.
CUT_OFF = """
import os
if os.environ.get("PET_NODE_RANK") == "1":
    os.environ["GLOO_SOCKET_IFNAME"] = "nothing0"
"""


def test_one_node_that_crashes_again_and_again_gives_up(product: Product) -> None:
    """Its peer, which has not failed, cannot take it for one that is lost for ever."""
    hooked(product, CUT_OFF).submit("pretext")
    check_failed(product, "pretext", 70, "3 attempts in a row made no progress")


def test_binary_that_does_not_exist_is_stopped(product: Product) -> None:
    product.submit("pretext", {"platform.extraEnv": [{"name": "PATH", "value": "/nowhere"}]})
    # Of what they died is told only where a look meets a pod between its end and its deletion.
    check_suspended(product, "pretext", "12 pods in a row died within seconds")


def test_image_that_does_not_exist_is_named(product: Product) -> None:
    image = {"repository": "clusterfit.test/nothing", "tag": "here"}
    product.submit("pretext", {"platform.image": image})
    wrong = "the image clusterfit.test/nothing:here cannot be pulled"

    said = product.wait_for_cause("pretext", wrong)
    assert said["phase"] == "starting"
    assert "submit with --replace" in said["advice"]
    with product.begin("logs", RUN, "--follow") as follow:
        follow.wait_until(lambda typed: any(wrong in said for said in typed.remarks))
    product.type("wait", RUN, "--timeout=1").expect(124)
    # The cure that it names.
    product.succeed("submit", "pretext", "-f", product.write(), "--replace")
    product.wait_for_success("pretext")


def test_stage_past_its_deadline_is_suspended_and_can_go_on(
    product: Product, reference: RunDirectory
) -> None:
    product.put_results(reference, "pretext", "extract", "cluster")
    product.submit("train", {
        "train.epochs": 5000,
        "train.checkpointEverySteps": RARELY,
        "platform.deadlineSeconds": 3600,
    })  # fmt: skip
    product.wait_for_line("train", "msg=epoch ")
    # Two hours pass.
    then = (datetime.now(UTC) - timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    started = ("annotate", "pytorchjobs.kubeflow.org", f"{RUN}-train", "--overwrite")
    product.namespace.kubectl(*started, f"clusterfit.dev/released={then}")
    check_suspended(product, "train", "platform.deadlineSeconds: the stage took longer than 3600 s")
    step = read_stop(product.fetch(), "train", attempt=1)
    product.succeed("resume", RUN)
    assert f"msg=resumed step={step} " in product.wait_for_line("train", "msg=resumed")


NOWHERE = {"deadlineSeconds": 10, "nodeSelector": {"rack": "none"}}


def test_first_stage_past_its_deadline_is_suspended(user: Product) -> None:
    """Nobody releases it: its time counts from when its job was made."""
    user.submit("pretext", {"platform.stages": {"pretext": NOWHERE}})
    check_suspended(user, "pretext", "platform.deadlineSeconds: the stage took longer than 10 s")


def test_later_stage_past_its_deadline_is_suspended(
    product: Product, reference: RunDirectory
) -> None:
    """Its time counts from its release; and this one is a Job, which is suspended otherwise."""
    product.put_results(reference, "pretext")
    product.submit("step1", {"platform.stages": {"cluster": NOWHERE}})
    check_suspended(product, "cluster", "platform.deadlineSeconds: the stage took longer than 10 s")
    extract = product.job("extract")
    assert extract is not None
    assert has_condition(extract, "Succeeded")


@pytest.mark.parametrize("mode", ["cluster", "client"])
def test_stage_of_which_only_a_part_can_start_gives_its_gpus_back(
    cluster: Cluster, product: Product, mode: str
) -> None:
    # The node has eight GPUs: one pod of five gets them, and waits for one that never comes.
    product.submit("pretext", {
        "platform.gpus": 10,
        "platform.gpusPerNode": 5,
        "platform.processesPerNode": 1,
        "platform.startDeadlineSeconds": 90,  # for one pod to start, however busy the machine is
        "platform.sequencing": {"mode": mode},
    })  # fmt: skip
    product.wait_for_pods(
        "pretext", lambda pods: sorted(phase(pod) for pod in pods) == ["Pending", "Running"]
    )
    cause = "platform.startDeadlineSeconds: only 1 of 2 pods ran for 90 s"
    if mode == "client":  # where nothing in the cluster does, whoever waits for the run stops it
        assert cause in product.type("wait", RUN).expect(1).stderr
    check_suspended(product, "pretext", cause)


def test_full_storage_ends_the_stage_and_space_mends_it(
    cluster: Cluster, product: Product, reference: RunDirectory
) -> None:
    product = replace(product, changes={"platform.storage": {"claim": "small"}})
    product.namespace.kubectl.create(claim("small", storage_class=SMALL_CLASS, size="32Mi"))
    product.put_results(reference, "pretext", "extract", "cluster")
    held(product, THIRD_EPOCH, "small").submit("step2")
    product.wait_for_line("train", "msg=held at=third")
    product.fill("small")
    let_go(product, "third", claim="small")
    check_failed(product, "train", 73, "No space left on device; make space")

    product.namespace.run_on_claim(["rm", "/claim/ballast"], "small")
    product.succeed("submit", "step2", "-f", product.write(), "--replace")
    product.wait_for_success("train")
    assert "msg=resumed" in product.log(f"{RUN}-train-worker-0")
    ours = product.fetch()
    check_whole(ours)
    check_same_training(ours, reference, "train")
