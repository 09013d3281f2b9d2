"""A log is followed while reader, pods and API server are away: no line lost, none twice."""

from __future__ import annotations

from clusterfit.artifacts.layout import RunDirectory
from tests.cluster.cluster import Cluster
from tests.e2e.digits import RUN, WORLD_SIZE
from tests.e2e.product import Product, uids


def read_copies(run: RunDirectory, stage: str, rank: int) -> list[str]:
    """Return what a rank has said in all attempts, as its copies have it."""
    folder = run.root / "logs" / stage
    attempts = sorted(int(path.name.removeprefix("attempt-")) for path in folder.iterdir())
    return [
        line
        for attempt in attempts
        for line in run.rank_log(stage, attempt, rank).read_text().splitlines()
    ]


def test_what_a_pod_said_unread_before_it_died_comes_from_the_copies(
    cluster: Cluster, product: Product, reference: RunDirectory
) -> None:
    product.put_results(reference, "pretext", "extract", "cluster")
    # An API server takes its time to come back, and the training must not be over by then.
    product.submit("train", {"train.epochs": 120})
    with product.begin("logs", RUN, "--all-ranks", "--follow") as follow:
        follow.wait_until(lambda typed: any("msg=epoch epoch=2 " in line for line in typed.lines))
        follow.freeze()
        # What the connection still holds can be read later; what comes after its end cannot.
        cluster.restart("kube-apiserver")
        said = product.log(f"{RUN}-train-worker-0")
        epoch = max(int(part.split()[0]) for part in said.split("msg=epoch epoch=")[1:])
        product.wait_for_line("train", f"msg=epoch epoch={epoch + 2} ")
        before = uids(product.pods("train"))
        product.kill_rank("train", rank=2)
        product.wait_for_pods(
            "train", lambda pods: len(pods) == 2 and not set(uids(pods)) & set(before)
        )
        follow.thaw()
        product.wait_for_success("train")
        followed = follow.wait(120).expect(0)
    assert "was started again; its log goes on" in followed.stderr
    ours = product.fetch()
    lines = followed.stdout.splitlines()
    for rank in range(WORLD_SIZE):
        kept = read_copies(ours, "train", rank)
        assert [line for line in lines if f" rank={rank} " in line] == kept
        assert sum("msg=resumed" in line for line in kept) == 1
