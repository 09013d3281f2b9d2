"""Runs in a Kueue queue: they wait, start, give way, and come back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from clusterfit.artifacts.layout import RunDirectory
from tests.cluster.cluster import Cluster
from tests.cluster.commands import wait_for
from tests.cluster.kueue import KUEUE_NAMESPACE
from tests.cluster.manifests import Object, has_condition, pod_spec
from tests.cluster.paths import CHECKOUT
from tests.e2e.artifacts import check_same_training, check_whole
from tests.e2e.digits import RARELY, RUN
from tests.e2e.endings import BOUND_SECONDS
from tests.e2e.holds import gated, held, let_go, open_gate
from tests.e2e.people import become, read_team_rules
from tests.e2e.product import STAGE_SECONDS, Product, how_it_ended
from tests.e2e.remains import sign
from tests.e2e.said import read_start, read_stop

QUEUE = "team"
URGENT = "urgent"
API = "kueue.x-k8s.io/v1beta1"
# One stage of two pods fits, and a second one does not.
QUOTA = [{"name": "cpu", "nominalQuota": "700m"}, {"name": "memory", "nominalQuota": "4Gi"}]
CLUSTER_QUEUE: Object = {
    "apiVersion": API,
    "kind": "ClusterQueue",
    "metadata": {"name": "shared"},
    "spec": {
        "namespaceSelector": {},
        "preemption": {"withinClusterQueue": "LowerPriority"},
        "resourceGroups": [
            {
                "coveredResources": [resource["name"] for resource in QUOTA],
                "flavors": [{"name": "any", "resources": QUOTA}],
            }
        ],
    },
}
FLAVOR = {"apiVersion": API, "kind": "ResourceFlavor", "metadata": {"name": "any"}}


@pytest.fixture(scope="module")
def kueue(cluster: Cluster) -> Iterator[Cluster]:
    """Kueue, removed with all its objects when the module ends; tests change how it is set up."""
    try:
        cluster.enable_kueue()
        sign(cluster.kubectl, KUEUE_NAMESPACE)
        cluster.kubectl.apply(FLAVOR, CLUSTER_QUEUE, priority("low", 10), priority("high", 1000))
        yield cluster
        cluster.kubectl("delete", "workloadpriorityclasses.kueue.x-k8s.io", "--all")
    finally:
        cluster.disable_kueue()


def priority(name: str, value: int) -> Object:
    metadata = {"name": name}
    return {
        "apiVersion": API, "kind": "WorkloadPriorityClass", "metadata": metadata, "value": value,
    }  # fmt: skip


def wait_for_free_quota(user: Product) -> None:
    wait_for(
        "nobody holds quota",
        lambda: user.namespace.kubectl.get("clusterqueue", "shared").get("status", {}),
        lambda status: not status.get("reservingWorkloads"),
        timeout_seconds=120,
    )


def make_queue(user: Product, name: str) -> None:
    """Make a queue of a namespace, once those of earlier tests are empty.

    What still holds quota when its namespace goes would give it back unnoticed: Kueue looks again
    at what waits by way of the queue, which has gone before.
    """
    wait_for_free_quota(user)
    spec = {"clusterQueue": "shared"}
    user.namespace.kubectl.create(
        {"apiVersion": API, "kind": "LocalQueue", "metadata": {"name": name}, "spec": spec}
    )


def make_room_for_both_stages(kueue: Cluster) -> None:
    """Let extract, cluster and two supervisors in at once, but not two extracts."""
    room = {"cpu": "1050m", "memory": "6400Mi"}
    quota = [{"name": name, "nominalQuota": amount} for name, amount in room.items()]
    groups = CLUSTER_QUEUE["spec"]["resourceGroups"]
    wider = {**groups[0], "flavors": [{"name": "any", "resources": quota}]}
    change = json.dumps({"spec": {"resourceGroups": [wider]}})
    kueue.kubectl("patch", "clusterqueue", "shared", "--type=merge", f"--patch={change}")


def queued(name: str = QUEUE, **more: str) -> dict[str, Any]:
    """Return the change to the run file that names a queue."""
    return {"platform.queue": {"gang": "kueue", "name": name, **more}}


def submit_another(product: Product, name: str, changes: dict[str, Any]) -> None:
    """Submit extract of another run, from random weights."""
    other = {"name": name, "extract.weights": {"from": "random"}, **changes}
    product.succeed("submit", "extract", "-f", product.write(other))


def wait_for_place(product: Product, run: str, place: int) -> None:
    """Wait until status says that another run waits, and how many wait before it."""
    wait_for(
        f"{run} has place {place}",
        lambda: product.succeed("status", run).stdout,
        lambda said: f"extract: place {place} in queue {QUEUE}" in said,
    )


def wait_for_other(product: Product, name: str) -> None:
    job = product.namespace.wait_for_object(
        "pytorchjob",
        f"{name}-extract",
        lambda job: bool(how_it_ended(job)),
        timeout_seconds=STAGE_SECONDS,
    )
    assert how_it_ended(job) == "succeeded"


def span(pods: list[Object]) -> tuple[str, str]:
    """Return when the first pod was made, and when the last one ended."""
    ends = [pod["status"]["containerStatuses"][0]["state"]["terminated"] for pod in pods]
    first = min(pod["metadata"]["creationTimestamp"] for pod in pods)
    return first, max(end["finishedAt"] for end in ends)


def test_offered_queue_is_valid(kueue: Cluster) -> None:
    offered = CHECKOUT / "k8s/prerequisites/kueue.yaml"
    namespace = CHECKOUT / "k8s/prerequisites/namespace.yaml"
    kueue.kubectl("apply", f"--filename={namespace}")
    try:
        said = kueue.kubectl(
            "create", "--dry-run=server", "--validate=strict", f"--filename={offered}"
        )
    finally:
        kueue.kubectl("delete", f"--filename={namespace}", timeout_seconds=180)
    assert len(said.splitlines()) == 3


def test_queue_that_is_not_there(kueue: Cluster, user: Product) -> None:
    make_queue(user, QUEUE)
    answer = user.type("submit", "step1", "-f", user.write(queued("other"))).expect(69)
    assert answer.stderr == (
        f"error: platform.queue.name: no LocalQueue other in namespace {user.namespace.name}; "
        f"there are {QUEUE}\n"
    )


def test_rights_of_the_offered_role_are_enough_in_a_queue(kueue: Cluster, user: Product) -> None:
    make_queue(user, QUEUE)
    member = become(user, "member", read_team_rules())
    nowhere = {"platform.nodeSelector": {"nowhere": "true"}}
    submit_another(member, "first", {**queued(), **nowhere})
    member.namespace.wait_for_object(
        "pytorchjob", "first-extract", lambda job: not job["spec"]["runPolicy"]["suspend"]
    )  # it has the quota
    submit_another(member, "second", queued())
    wait_for_place(member, "second", 1)
    member.succeed("suspend", "second")
    assert "suspended by" in member.succeed("status", "second").stdout
    member.succeed("resume", "second")
    wait_for_place(member, "second", 1)
    member.succeed("cancel", "second")
    member.succeed("delete", "second")
    member.succeed("delete", "first")


def test_preempted_and_suspended_it_goes_on_from_its_checkpoint(
    kueue: Cluster, product: Product, reference: RunDirectory
) -> None:
    make_queue(product, QUEUE)
    product.put_results(reference, "pretext", "extract", "cluster")
    rarely = {"train.checkpointEverySteps": RARELY}
    staying = held(product, {"second": r"msg=epoch epoch=2 ", "resumed": r"msg=resumed "})
    staying.submit("train", {**queued(priorityClass="low"), **rarely})
    product.wait_for_line("train", "msg=held at=second")
    # The urgent one holds what it was let in for, and cannot end before it may begin.
    submit_another(gated(product), URGENT, queued(priorityClass="high"))
    said = wait_for(
        "status says that it was preempted",
        lambda: product.status()[1]["train"],
        lambda stage: "reempted" in stage.get("cause", ""),
    )
    assert said["phase"] == "queued"
    # Until the urgent one has what it was preempted for, both are in the queue.
    assert re.match(f"place [12] in queue {QUEUE}: ", said["cause"])
    open_gate(product)
    wait_for_other(product, URGENT)
    product.wait_for_line("train", "msg=held at=resumed")

    # Kueue holds the job's own switch: suspending goes through its Workload.
    assert product.succeed("suspend", RUN).stdout.startswith("suspended: train")
    product.wait_for_pods("train", lambda pods: not pods)
    code, stages = product.status()
    assert (code, stages["train"]["phase"]) == (0, "suspended")
    let_go(product, "second", "resumed")
    assert product.succeed("resume", RUN).stdout == "resumed: train\n"
    product.wait_for_success("train")
    assert "msg=resumed" in product.log(f"{RUN}-train-worker-0")
    ours = product.fetch()
    check_whole(ours)
    check_same_training(ours, reference, "train")
    for attempt in (1, 2):
        assert read_start(ours, "train", attempt + 1) == read_stop(ours, "train", attempt)


def test_cancelled_replaced_and_deleted_it_gives_its_quota_to_who_waits(
    kueue: Cluster, product: Product
) -> None:
    make_queue(product, QUEUE)
    endless = {**queued(), "pretext.epochs": 10_000, "pretext.checkpointEverySteps": RARELY}
    product.submit("pretext", endless)
    product.wait_for_line("pretext", "msg=epoch ")
    # Whoever holds quota is not counted, and whoever came before is.
    submit_another(product, "second", queued())
    wait_for_place(product, "second", 1)
    submit_another(product, "third", queued())
    wait_for_place(product, "third", 2)
    product.succeed("delete", "third")
    assert product.succeed("suspend", "second").stdout.startswith("suspended: extract\n")
    said = product.succeed("status", "second").stdout
    assert said.startswith(f"run second in namespace {product.namespace.name}: suspended\n")
    assert product.succeed("resume", "second").stdout == "resumed: extract\n"
    wait_for_place(product, "second", 1)
    others = ("get", "pods", "--selector=clusterfit.dev/run=second,clusterfit.dev/stage=extract")
    assert product.namespace.kubectl(*others, "--output=name") == ""
    assert product.succeed("cancel", RUN).stdout.startswith("cancelled: pretext\n")
    wait_for_other(product, "second")
    code, stages = product.status()
    assert (code, stages["pretext"]["phase"]) == (0, "suspended")
    assert "clusterfit cancel" in stages["pretext"]["cause"]

    assert product.succeed("resume", RUN).stdout == "resumed: pretext\n"
    product.wait_for_line("pretext", "msg=resumed")
    before = product.job("pretext")
    changed = product.write({**endless, "platform.memoryGibPerNode": 1.5})
    product.succeed("submit", "pretext", "-f", changed, "--replace")
    after = product.job("pretext")
    assert before is not None
    assert after is not None
    assert before["metadata"]["uid"] != after["metadata"]["uid"]
    product.wait_for_line("pretext", "msg=resumed")

    product.succeed("delete", RUN)
    product.succeed("delete", "second")
    wait_for_free_quota(product)
    workloads = ("get", "workloads.kueue.x-k8s.io", "--output=name")
    wait_for("they go", lambda: product.namespace.kubectl(*workloads), lambda names: not names)


def test_kueue_counts_the_deadline_and_the_stage_can_go_on(
    kueue: Cluster, product: Product, reference: RunDirectory
) -> None:
    make_queue(product, QUEUE)
    product.put_results(reference, "pretext", "extract", "cluster")
    product.submit("train", {
        **queued(),
        "train.epochs": 5000,
        "train.checkpointEverySteps": RARELY,
        "platform.deadlineSeconds": 120,
    })  # fmt: skip
    said = product.wait_for_cause("train", "maximum execution time", STAGE_SECONDS)
    product.wait_for_pods("train", lambda pods: not pods)
    assert said["phase"] == "suspended"
    assert said["cause"].startswith("suspended by Kueue: ")
    assert said["advice"].startswith(f"clusterfit resume {RUN} ")
    step = read_stop(product.fetch(), "train", attempt=1)
    assert product.succeed("resume", RUN).stdout == "resumed: train\n"
    assert f"msg=resumed step={step} " in product.wait_for_line("train", "msg=resumed")


def test_binary_that_does_not_exist_is_ended(kueue: Cluster, user: Product) -> None:
    """Kueue holds the job's switch, and would let a suspended one start again."""
    make_queue(user, QUEUE)
    no_program = {"platform.extraEnv": [{"name": "PATH", "value": "/nowhere"}]}
    user.submit("pretext", {**queued(), **no_program})
    user.wait_for_failure("pretext", BOUND_SECONDS)
    user.wait_for_pods("pretext", lambda pods: not pods)
    code, stages = user.status()
    assert (code, stages["pretext"]["phase"]) == (1, "failed")
    # Of what they died is told only where a look meets a pod between its end and its deletion.
    assert "12 pods in a row died within seconds" in stages["pretext"]["cause"]
    user.type("wait", RUN).expect(1)


def test_admitted_stage_that_no_node_takes_gives_its_quota_back(
    kueue: Cluster, user: Product
) -> None:
    """Kueue counts what a queue may have, not what nodes have."""
    make_queue(user, QUEUE)
    nowhere = {"platform.nodeSelector": {"rack": "none"}, "platform.startDeadlineSeconds": 30}
    user.submit("pretext", {**queued(), **nowhere})
    user.wait_for_failure("pretext", BOUND_SECONDS)
    user.wait_for_pods("pretext", lambda pods: not pods)
    cause = user.status()[1]["pretext"]["cause"]
    assert "platform.startDeadlineSeconds: only 0 of 2 pods ran for 30 s" in cause
    wait_for_free_quota(user)


def test_stages_and_runs_in_the_default_queue_wait_for_their_turn(
    kueue: Cluster, product: Product, reference: RunDirectory
) -> None:
    kueue.enable_kueue(feature_gates=["LocalQueueDefaulting=true"])
    make_queue(product, "default")
    product.put_results(reference, "pretext")
    unnamed = product.type("submit", "step1", "-f", product.write()).expect(69)
    assert "has a LocalQueue `default`, in which Kueue may put every stage at once; set " in (
        unnamed.stderr
    )
    # Whoever of the first run is let in before its stage makes room for that again.
    gated(product).submit("step1", queued("default", priorityClass="high"))
    submit_another(product, "second", queued("default", priorityClass="low"))
    # Kueue has put the supervisors in the queue too: they count, and status says so.
    wait_for(
        "status names the place of the second run",
        lambda: product.succeed("status", "second").stdout,
        lambda said: bool(re.search(r"place [123] in queue default: .*insufficient unused", said)),
    )
    assert product.status()[1]["cluster"]["cause"] == (
        "waits for extract; the supervisor, which would start it, waits in queue default itself"
    )
    # A supervisor that is let in before its stage would keep the room that the stage needs. And
    # only where there is room for both stages does the second one wait for nothing but its turn.
    make_room_for_both_stages(kueue)
    open_gate(product)
    product.wait_for_success("extract", "cluster")
    wait_for_other(product, "second")
    extract, cluster = span(product.pods("extract")), span(product.pods("cluster"))
    assert extract[1] <= cluster[0], "a later stage started before its turn"
    labels = "clusterfit.dev/run=second,app.kubernetes.io/component=worker"
    others = span(product.namespace.kubectl.get("pods", f"--selector={labels}")["items"])
    assert extract[1] <= others[0] or others[1] <= extract[0], "more ran than the queue has"


def test_without_its_integration_status_says_so(kueue: Cluster, user: Product) -> None:
    kueue.enable_kueue(pytorchjob=False)
    make_queue(user, QUEUE)
    user.submit("step1", queued())
    # Kueue works: a Job of the same queue, created after, is admitted and ends.
    labels = {"kueue.x-k8s.io/queue-name": QUEUE}
    resources = {"requests": {"cpu": "10m", "memory": "16Mi"}}
    spec = pod_spec(user.image, ["true"])
    spec["containers"][0]["resources"] = resources
    user.namespace.kubectl.create({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "control", "labels": labels},
        "spec": {"suspend": True, "template": {"spec": spec}},
    })  # fmt: skip
    user.namespace.wait_for_object("job", "control", lambda job: has_condition(job, "Complete"))
    found = user.namespace.kubectl.get("workloads.kueue.x-k8s.io")["items"]
    owners = [item["metadata"]["ownerReferences"][0] for item in found]
    assert "control" in [owner["name"] for owner in owners]
    assert {owner["kind"] for owner in owners} == {"Job"}  # the cluster stage's as well
    extract = user.job("extract")
    assert extract is not None
    assert extract["spec"]["runPolicy"]["suspend"]
    _, stages = user.status()
    assert stages["extract"]["phase"] == "queued"
    assert stages["extract"]["cause"] == "Kueue has not taken notice of it"
    assert "its integration for PyTorchJob on" in stages["extract"]["advice"]
    assert stages["cluster"]["phase"] == "held"
    assert stages["cluster"]["cause"] == "waits for extract"
