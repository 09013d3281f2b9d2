"""A run is suspended, resumed, cancelled, replaced and removed while its stages are at work.

Whatever is done to it, the network that comes out is the one that an undisturbed run gives.
"""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import pairwise

import pytest

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.logline import parse_line
from tests.cluster.cluster import Cluster
from tests.cluster.commands import wait_for
from tests.cluster.manifests import Object, phase
from tests.e2e.artifacts import check_same_step1, check_same_training, check_whole
from tests.e2e.digits import RARELY, RUN, WORLD_SIZE
from tests.e2e.helm import RUN_CHART, helm
from tests.e2e.holds import THIRD_EPOCH, held
from tests.e2e.product import STAGE_SECONDS, Product, uids
from tests.e2e.said import read_start, read_stop

EVERYTHING = "pytorchjobs,jobs,pods,configmaps,serviceaccounts,roles,rolebindings,networkpolicies"


@pytest.fixture
def training(product: Product, reference: RunDirectory) -> Product:
    """A user whose run trains on the reference's assignments, and stays after its third epoch."""
    product = replace(product, changes={"train.checkpointEverySteps": RARELY})
    product.put_results(reference, "pretext", "extract", "cluster")
    held(product, THIRD_EPOCH).submit("train")
    product.wait_for_line("train", "msg=held at=third")
    return product


@contextmanager
def held_at_their_end(user: Product, pods: list[Object]) -> Iterator[None]:
    """Let pods that are deleted meanwhile be there until the end, however soon they stop."""

    def set_finalizers(finalizers: list[str]) -> None:
        change = json.dumps({"metadata": {"finalizers": finalizers}})
        names = [pod["metadata"]["name"] for pod in pods]
        user.namespace.kubectl("patch", "pod", *names, "--type=merge", f"--patch={change}")

    set_finalizers(["clusterfit.test/hold"])
    try:
        yield
    finally:
        set_finalizers([])


def what_is_there(user: Product) -> str:
    """Name the objects of the run, and Helm's record of it."""
    ours = f"--selector=clusterfit.dev/run={RUN}"
    kubectl = user.namespace.kubectl
    return kubectl("get", EVERYTHING, ours, "--output=name") + kubectl(
        "get", "secrets", "--output=name"
    )


def messages(lines: list[str]) -> Iterator[str]:
    """Yield what each line of ours says."""
    return (fields["msg"] for line in lines if (fields := parse_line(line)))


def test_suspend_checkpoints_and_resume_goes_on_from_there(
    training: Product, reference: RunDirectory
) -> None:
    said = training.succeed("suspend", RUN).stdout
    assert said.startswith("suspended: train\ngo on:  clusterfit resume digits -n ")
    training.wait_for_pods("train", lambda pods: not pods)
    code, stages = training.status()
    assert (code, stages["train"]["phase"]) == (0, "suspended")
    assert stages["train"]["cause"] == (f"suspended by {getpass.getuser()}: clusterfit suspend")
    assert training.succeed("suspend", RUN).stdout == "nothing to do: nothing of it runs\n"

    assert training.succeed("resume", RUN).stdout == "resumed: train\n"
    training.wait_for_success("train")
    shown = training.succeed("logs", RUN, "train").stdout.splitlines()
    assert "resumed" in messages(shown)
    ours = training.fetch()
    check_whole(ours)
    check_same_training(ours, reference, "train")
    assert read_start(ours, "train", attempt=2) == read_stop(ours, "train", attempt=1)

    # The attempt before, and both when no pod is left to ask.
    def kept(attempt: int, rank: int) -> list[str]:
        return ours.rank_log("train", attempt, rank).read_text().splitlines()

    previous = training.succeed("logs", RUN, "train", "--previous")
    assert previous.stdout.splitlines() == kept(1, 0)
    assert "reading an earlier attempt" in previous.stderr
    assert [line for line in shown if " rank=0 " in line] == kept(2, 0)
    training.namespace.kubectl("delete", "pods", "--all")
    later = training.succeed("logs", RUN, "train", "--all-ranks")
    assert "no pods are left; reading the copies on the claim" in later.stderr
    lines = later.stdout.splitlines()
    for rank in range(WORLD_SIZE):
        assert [line for line in lines if f" rank={rank} " in line] == kept(2, rank)
    stamps = [line.partition(" ")[0] for line in lines]
    assert all(before <= after for before, after in pairwise(stamps))
    assert training.succeed("logs", RUN, "train", "--rank=3").stdout.splitlines() == kept(2, 3)


def test_cancel_keeps_a_record_and_delete_keeps_the_results(training: Product) -> None:
    with training.begin("wait", RUN) as wait, training.begin("logs", RUN, "--follow") as follow:
        wait.wait_until(lambda typed: "train: running" in typed.remarks)
        follow.wait_until(lambda typed: "msg=epoch" in "".join(typed.lines))
        said = training.succeed("cancel", RUN).stdout
        wait.wait(120).expect(1)
        followed = follow.wait(120).expect(1)
    assert said.startswith("cancelled: train\nremove: clusterfit delete digits -n ")
    assert f"train: stopped by {getpass.getuser()}: clusterfit cancel" in followed.stderr
    training.wait_for_pods("train", lambda pods: not pods)
    training.wait_for_pods("", lambda pods: not pods, role="supervisor")
    assert "pytorchjob.kubeflow.org/digits-train" in what_is_there(training)
    _, stages = training.status()
    assert stages["train"]["phase"] == "suspended"
    assert "clusterfit cancel" in stages["train"]["cause"]
    assert training.succeed("delete", RUN).stdout.startswith(f"deleted {RUN}-train; its results")
    assert what_is_there(training) == ""
    get = ("get", "pods,services", "--output=name")
    wait_for(
        "the rest goes",
        lambda: training.namespace.kubectl(*get).split(),
        lambda names: names == ["pod/reader-storage"],  # the test's own
    )
    missing = training.type("status", RUN).expect(3)
    assert missing.stderr == (
        f"error: run {RUN}: not found in namespace {training.namespace.name}; there are no runs "
        "here\n"
    )
    assert any((training.fetch().root / "train" / "checkpoints").iterdir())


def test_cancelled_run_goes_on_when_it_is_resumed(user: Product) -> None:
    user.submit("step1", {"platform.nodeSelector": {"nowhere": "true"}})
    user.wait_for_pods("extract", lambda pods: len(pods) == 2)
    assert "not over after 1 s" in user.type("wait", RUN, "--timeout=1").expect(124).stderr
    user.succeed("cancel", RUN)
    user.wait_for_pods("extract", lambda pods: not pods)
    user.wait_for_pods("", lambda pods: not pods, role="supervisor")
    assert user.succeed("resume", RUN).stdout == "resumed: extract\n"
    user.wait_for_pods("extract", lambda pods: len(pods) == 2)
    (supervisor,) = user.wait_for_pods(
        "", lambda pods: [phase(pod) for pod in pods] == ["Running"], role="supervisor"
    )
    wait_for(
        "the supervisor has looked",
        lambda: user.log(supervisor["metadata"]["name"]),
        lambda said: "stage=cluster phase=held" in said,
    )


def test_delete_waits_until_its_pods_are_gone_and_whoever_waits_is_told(training: Product) -> None:
    with training.begin("wait", RUN) as wait, training.begin("logs", RUN, "--follow") as follow:
        wait.wait_until(lambda typed: "train: running" in typed.remarks)
        follow.wait_until(lambda typed: "msg=epoch" in "".join(typed.lines))
        # It is typed once the pods are held, and ends once they are not.
        with ExitStack() as typing:
            with held_at_their_end(training, training.pods("train")):
                delete = typing.enter_context(training.begin("delete", RUN))
                delete.wait_until(lambda typed: any("to end" in said for said in typed.remarks))
                assert delete.is_running
            delete.wait(180).expect(0)
        assert training.pods("train") == []
        assert training.pods("", role="supervisor") == []
        waited = wait.wait(120).expect(3)
        followed = follow.wait(120).expect(3)
    assert f"error: train: PyTorchJob {RUN}-train was removed before" in waited.stderr
    assert f"train: PyTorchJob {RUN}-train was removed\n" in followed.stderr


def test_replaced_in_the_middle_it_goes_on_from_the_checkpoint(
    training: Product, reference: RunDirectory
) -> None:
    before, pods_before = training.job("train"), training.pods("train")
    assert before is not None
    changed = training.write({"platform.memoryGibPerNode": 1.5})
    words = ("submit", "train", "-f", changed, "--replace")
    with ExitStack() as typing:
        with held_at_their_end(training, pods_before):
            replacing = typing.enter_context(training.begin(*words))
            replacing.wait_until(lambda typed: any("to end" in said for said in typed.remarks))
            assert training.job("train") is None, "two writers in one run directory"
        said = replacing.wait(180).expect(0).stdout
    assert not set(uids(training.pods("train"))) & set(uids(pods_before))
    assert said.startswith(f"replaced {RUN}-train to namespace")
    job = training.job("train")
    assert job is not None
    assert job["metadata"]["uid"] != before["metadata"]["uid"]
    training.wait_for_success("train")
    assert "msg=resumed" in training.log(f"{RUN}-train-worker-0")
    ours = training.fetch()
    check_whole(ours)
    check_same_training(ours, reference, "train")


def test_uninstalled_and_installed_again_at_once(
    training: Product, reference: RunDirectory
) -> None:
    before = training.pods("train")
    with held_at_their_end(training, before):
        helm(training, "uninstall", f"{RUN}-train")
        assert set(uids(training.pods("train"))) & set(uids(before)), "still ending"
        run_file = training.write({"stages": ["train"]})
        helm(training, "install", "another-name", RUN_CHART, "-f", run_file)
    training.wait_for_success("train")
    assert not set(uids(training.pods("train"))) & set(uids(before))
    assert "msg=resumed" in training.log(f"{RUN}-train-worker-0")
    ours = training.fetch()
    check_whole(ours)
    check_same_training(ours, reference, "train")


def test_stages_are_removed_only_once_the_run_is_over(
    product: Product, reference: RunDirectory
) -> None:
    product.put_results(reference, "pretext")
    stages = ["extract", "cluster", "train"]
    # Less than any stage takes: one that was removed after its own end would be missed.
    changes = {"stages": stages, "platform.ttlSecondsAfterFinished": 10}
    product.submit("pipeline", changes)
    product.succeed("wait", RUN, timeout_seconds=3 * STAGE_SECONDS)
    jobs = ("get", "pytorchjobs,jobs", f"--selector=clusterfit.dev/run={RUN}", "--output=name")
    wait_for("its jobs go", lambda: product.namespace.kubectl(*jobs), lambda names: not names)
    ours = product.fetch()
    check_whole(ours)
    check_same_step1(ours, reference)


def test_client_releases_the_stages_while_it_follows(
    cluster: Cluster, product: Product, reference: RunDirectory
) -> None:
    product.put(reference.backbone("pretext"), "storage:weights/pretext.safetensors")
    same = {"extract.weights": {"from": "path", "path": "weights/pretext.safetensors"}}
    run_file = product.write({**same, "platform.sequencing": {"mode": "client"}})
    with product.begin("submit", "step1", "-f", run_file, "--follow") as typed:
        typed.wait_until(lambda typed: any(line.startswith("submitted") for line in typed.lines))
        product.wait_for_pods("extract", lambda pods: len(pods) == 2)
        cluster.kill("kube-apiserver")
        typed.wait_until(lambda typed: any("no answer from" in said for said in typed.remarks))
        cluster.start("kube-apiserver")
        product.wait_for_success("extract", "cluster")
        answer = typed.wait(60).expect(0)
    assert product.pods("", role="supervisor") == []
    assert "later stages start only while" in answer.stderr
    ours = product.fetch()
    check_whole(ours)
    check_same_step1(ours, reference)
    said = [line for line in answer.stdout.splitlines() if " rank=0 " in line]
    kept = [
        line
        for stage in ("extract", "cluster")
        for line in ours.rank_log(stage, 1, 0).read_text().splitlines()
    ]
    assert said == kept


@pytest.mark.parametrize("mode", ["cluster", "client"])
def test_ctrl_c_detaches_and_the_run_goes_on(
    product: Product, reference: RunDirectory, mode: str
) -> None:
    product.put_results(reference, "pretext", "extract", "cluster")
    changes = {"train.epochs": 5000, "platform.sequencing": {"mode": mode}}
    run_file = product.write(changes)  # it outlasts whoever looks on
    come_back = {
        "cluster": f"detached; {RUN} goes on. Come back: clusterfit logs {RUN} -n ",
        "client": f"later stages until somebody waits: clusterfit wait {RUN} -n ",
    }[mode]
    for words in (("submit", "train", "-f", run_file, "--follow"), ("logs", RUN, "--follow")):
        with product.begin(*words) as typed:
            typed.wait_until(lambda typed: "msg=progress" in "".join(typed.lines))
            typed.interrupt()
            assert come_back in typed.wait(30).expect(130).stderr
    wait_for("it still runs", product.status, lambda said: said[1]["train"]["phase"] == "running")
