"""A log is followed while reader, pods and API server are away: no line lost, none twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.logline import parse_line
from tests.cluster.cluster import Cluster
from tests.e2e.digits import PROCESSES_PER_NODE, RUN, WORLD_SIZE
from tests.e2e.holds import held, let_go
from tests.e2e.product import Product, uids
from tests.e2e.said import read_attempt, read_copies, read_shown

# faiss does all iterations, settled or not: enough of them to tell how far it is.
SLOW_CLUSTERING = {
    "cluster.engine": "faiss",
    "cluster.init": "random",
    "cluster.numIterations": 20_000,
    "platform.stages": {"cluster": {"processesPerNode": 1}},  # faiss wants one
}


def test_what_a_pod_said_unread_before_it_died_comes_from_the_copies(
    cluster: Cluster, product: Product, reference: RunDirectory
) -> None:
    product.put_results(reference, "pretext", "extract", "cluster")
    lines = {"second": r"msg=epoch epoch=2 ", "fifth": r"msg=epoch epoch=5 "}
    held(product, lines).submit("train")
    with product.begin("logs", RUN, "--all-ranks", "--follow") as follow:
        follow.wait_until(lambda typed: any("msg=held" in line for line in typed.lines))
        follow.freeze()
        # What the connection still holds can be read later; what comes after its end cannot.
        cluster.restart("kube-apiserver")
        let_go(product, "second")
        product.wait_for_line("train", "msg=held at=fifth")
        before = uids(product.pods("train"))
        product.kill_rank("train", rank=2)
        let_go(product, "fifth")
        product.wait_for_pods(
            "train", lambda pods: len(pods) == 2 and not set(uids(pods)) & set(before)
        )
        # The copies begin to hold what the reader then finds in the new pod's own log as well.
        product.wait_for_line("train", "msg=resumed")
        follow.thaw()
        product.wait_for_success("train")
        followed = follow.wait(120).expect(0)
    assert "was started again; its log goes on" in followed.stderr
    copies = read_copies(product.fetch(), "train")
    assert read_shown(followed.stdout) == copies
    assert sum("msg=resumed" in line for line in copies[0]) == 1


def test_job_that_crashed_is_followed_into_the_pod_that_comes_after(
    product: Product, reference: RunDirectory
) -> None:
    product.put_results(reference, "pretext", "extract")
    held(product, {"some": r"msg=progress done=[1-9]\d* total=20000 "}).submit(
        "cluster", SLOW_CLUSTERING
    )
    with product.begin("logs", RUN, "--all-ranks", "--follow") as follow:
        follow.wait_until(lambda typed: any("msg=held" in line for line in typed.lines))
        product.kill_rank("cluster", rank=0)
        let_go(product, "some")
        product.wait_for_success("cluster")
        followed = follow.wait(60).expect(0)
    crashed, last = product.pods("cluster")  # both stay, with random names
    name = last["metadata"]["name"]
    assert f"{name} was started in place of one before; its log goes on" in followed.stderr
    assert crashed["metadata"]["creationTimestamp"] < last["metadata"]["creationTimestamp"]
    run = product.fetch()
    assert read_shown(followed.stdout) == read_copies(run, "cluster", world_size=1)
    first, second = (read_attempt(run, "cluster", number, world_size=1) for number in (1, 2))
    for options, wanted in (((), second), (("--previous",), first)):
        shown = product.succeed("logs", RUN, "cluster", "--all-ranks", *options)
        assert read_shown(shown.stdout) == wanted


def test_parts_of_a_log_come_from_pods_and_from_copies(
    product: Product, reference: RunDirectory
) -> None:
    product.put_results(reference, "pretext", "extract", "cluster")
    product.submit("step2")
    product.wait_for_success("train")
    said = [product.log(pod["metadata"]["name"]).splitlines() for pod in product.pods("train")]
    for rank in range(WORLD_SIZE):
        check_parts(product, rank, select_rank(said[rank // PROCESSES_PER_NODE], rank))
    shown = product.succeed("logs", RUN, "train", "--all-ranks", "--tail=3").stdout.splitlines()
    assert shown == [
        line if " rank=" in line else f"[node {node}] {line}"
        for node, lines in enumerate(said)
        for line in lines[-3:]
    ]

    workers = "--selector=app.kubernetes.io/component=worker"
    product.namespace.kubectl("delete", "pods", workers)
    copies = read_attempt(product.fetch(), "train", 1)
    for rank, lines in copies.items():
        check_parts(product, rank, lines)
    answer = product.succeed("logs", RUN, "train", "--all-ranks", "--tail=3")
    assert "reading the copies" in answer.stderr
    shown = answer.stdout.splitlines()
    assert sorted(shown, key=read_time) == shown
    for node in range(2):
        own = range(node * PROCESSES_PER_NODE, (node + 1) * PROCESSES_PER_NODE)
        lines = sorted((line for rank in own for line in copies.get(rank, [])), key=read_time)
        assert [line for line in shown if read_rank(line) in own] == lines[-3:]


def check_parts(product: Product, rank: int, lines: list[str]) -> None:
    """Compare what is shown of a rank with all that it has said, and its pod besides."""

    def show(*options: str) -> list[str]:
        answer = product.succeed("logs", RUN, "train", f"--rank={rank}", *options)
        return answer.stdout.splitlines()

    assert show() == lines
    assert show("--tail=3") == lines[-3:]
    told = [line for line in lines if line.startswith("ts=")]
    seconds = int((datetime.now(UTC) - read_time(told[len(told) // 2])).total_seconds())
    before = datetime.now(UTC) - timedelta(seconds=seconds)
    shown = show(f"--since={seconds}")
    after = datetime.now(UTC) - timedelta(seconds=seconds)
    assert shown == lines[len(lines) - len(shown) :]
    # A line comes to the kubelet and to the copy a moment after its time stamp; on a machine that
    # has other things to do, a longer one.
    moment = timedelta(seconds=3)
    stamped = [line for line in shown if line.startswith("ts=")]
    assert all(read_time(line) >= before - moment for line in stamped)
    left_out = [line for line in told if line not in stamped]
    assert all(read_time(line) <= after + moment for line in left_out)


def select_rank(lines: list[str], rank: int) -> list[str]:
    """Return a rank's lines, and those that no rank has said."""
    return [line for line in lines if f" rank={rank} " in line or " rank=" not in line]


def read_rank(line: str) -> int:
    """Return the rank that has said a line."""
    return int((parse_line(line) or {})["rank"])


def read_time(line: str) -> datetime:
    """Return the moment that a line was said."""
    return datetime.fromisoformat((parse_line(line) or {})["ts"])
