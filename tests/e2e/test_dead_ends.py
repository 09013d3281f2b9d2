"""What cannot succeed ends: with the right exit code, in words that help, and holding nothing."""

from __future__ import annotations

from dataclasses import replace

from clusterfit.artifacts.layout import RunDirectory
from tests.cluster.cluster import Cluster
from tests.cluster.manifests import Object, claim, phase
from tests.cluster.storage import SMALL_CLASS
from tests.e2e.artifacts import check_same_weights, check_whole
from tests.e2e.digits import RUN
from tests.e2e.product import Product

BOUND_SECONDS = 420
"""Three attempts, each with a start of torch on a busy machine."""


def exit_code(pod: Object) -> int:
    """The code that a pod has ended with."""
    code: int = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
    return code


def check_failed(product: Product, stage: str, code: int, cause: str) -> None:
    """See that a stage failed for good, holds nothing, and that everybody who asks is told so."""
    product.wait_for_failure(stage, BOUND_SECONDS)
    pods = product.wait_for_pods(stage, lambda pods: {phase(pod) for pod in pods} == {"Failed"})
    assert code in map(exit_code, pods)
    status, stages = product.status()
    assert status == 1
    assert stages[stage]["phase"] == "failed"
    assert f"exit code {code}" in stages[stage]["cause"]
    said = product.succeed("logs", RUN, stage, "--all-ranks")
    assert cause in said.stdout
    product.type("wait", RUN).expect(1)


def check_suspended(product: Product, stage: str, cause: str) -> None:
    """See that the supervisor stopped a stage, gave back its pods and says why."""
    product.wait_for_job(
        stage, lambda job: bool(job["spec"]["runPolicy"].get("suspend")), BOUND_SECONDS
    )
    product.wait_for_pods(stage, lambda pods: not pods)
    status, stages = product.status()
    assert (status, stages[stage]["phase"]) == (0, "suspended")
    assert stages[stage]["cause"].startswith("suspended by the supervisor: ")
    assert cause in stages[stage]["cause"]
    assert stages[stage]["advice"].startswith(f"clusterfit resume {RUN} ")


def test_worker_that_fails_for_good_frees_its_peers(product: Product) -> None:
    product.submit("pretext", {"data.train": "nowhere/train"})
    check_failed(product, "pretext", 66, "nowhere/train")
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


def test_binary_that_does_not_exist_is_stopped(product: Product) -> None:
    product.submit("pretext", {"platform.extraEnv": [{"name": "PATH", "value": "/nowhere"}]})
    check_suspended(product, "pretext", "6 pods in a row died within seconds: StartError (128)")


def test_image_that_does_not_exist_is_named(product: Product) -> None:
    image = {"repository": "clusterfit.test/nothing", "tag": "here"}
    product.submit("pretext", {"platform.image": image})
    wrong = "the image clusterfit.test/nothing:here cannot be pulled"

    said = product.wait_for_cause("pretext", wrong)
    assert said["phase"] == "starting"
    assert "submit with --replace" in said["advice"]
    with product.begin("logs", RUN, "--follow") as follow:
        follow.wait_until(lambda typed: any(wrong in said for said in typed.remarks))
    # The cure that it names.
    product.succeed("submit", "pretext", "-f", product.write(), "--replace")
    product.wait_for_success("pretext")


def test_stage_past_its_deadline_is_suspended_and_can_go_on(
    product: Product, reference: RunDirectory
) -> None:
    product.put_results(reference, "pretext", "extract", "cluster")
    product.submit("train", {"train.epochs": 5000, "platform.deadlineSeconds": 60})
    check_suspended(product, "train", "platform.deadlineSeconds: the stage took longer than 60 s")
    checkpoints = list((product.fetch().stage("train") / "checkpoints").iterdir())
    assert checkpoints
    product.succeed("resume", RUN)
    assert "msg=resumed" in product.wait_for_line("train", "msg=resumed")


def test_full_storage_ends_the_stage_and_space_mends_it(
    cluster: Cluster, product: Product, reference: RunDirectory
) -> None:
    product = replace(product, changes={"platform.storage": {"claim": "small"}})
    product.namespace.kubectl.create(claim("small", storage_class=SMALL_CLASS, size="32Mi"))
    product.put_results(reference, "pretext", "extract", "cluster")
    product.submit("step2")
    product.wait_for_line("train", "msg=epoch epoch=3 ")
    fill = "cat /dev/zero > /claim/ballast 2>/dev/null; test -s /claim/ballast"
    product.namespace.run_on_claim(["sh", "-c", fill], "small")
    check_failed(product, "train", 73, "No space left on device; make space")

    product.namespace.run_on_claim(["rm", "/claim/ballast"], "small")
    product.succeed("submit", "step2", "-f", product.write(), "--replace")
    product.wait_for_success("train")
    assert "msg=resumed" in product.log(f"{RUN}-train-worker-0")
    ours = product.fetch()
    check_whole(ours)
    check_same_weights(ours, reference, "train")
