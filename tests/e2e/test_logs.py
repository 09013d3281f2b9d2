"""A log is followed while reader, pods and API server are away: no line lost, none twice."""

from __future__ import annotations

from clusterfit.artifacts.layout import RunDirectory
from tests.cluster.cluster import Cluster
from tests.e2e.digits import RUN
from tests.e2e.product import Product, uids
from tests.e2e.said import read_copies, read_shown


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
    copies = read_copies(product.fetch(), "train")
    assert read_shown(followed.stdout) == copies
    assert sum("msg=resumed" in line for line in copies[0]) == 1
