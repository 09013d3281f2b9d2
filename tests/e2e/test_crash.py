"""A rank is killed while somebody reads the log: neither work nor lines are lost."""

from __future__ import annotations

import pytest

from clusterfit.artifacts.layout import RunDirectory
from tests.e2e.artifacts import check_same_training, check_whole
from tests.e2e.digits import RUN
from tests.e2e.holds import THIRD_EPOCH, gated, held, let_go, open_gate
from tests.e2e.product import Product, uids
from tests.e2e.said import read_copies, read_shown

pytestmark = pytest.mark.core


def test_killed_rank_costs_neither_work_nor_lines(
    product: Product, reference: RunDirectory
) -> None:
    product.put_results(reference, "pretext", "extract")
    waiting = gated(held(product, THIRD_EPOCH))
    waiting.submit("pipeline", {"stages": ["cluster", "train"]})
    with product.begin("logs", RUN, "train", "--all-ranks", "--follow") as follow:
        follow.wait_until(lambda typed: "waiting for a pod of train" in typed.remarks)
        assert product.pods("train") == []
        open_gate(product)
        before = uids(product.wait_for_pods("train", lambda pods: len(pods) == 2))
        product.wait_for_line("train", "msg=held at=third")
        product.kill_rank("train", rank=3)
        let_go(product, "third")
        product.wait_for_success("train")
        followed = follow.wait(60).expect(0)
    assert not set(before) & set(uids(product.pods("train")))
    for node in range(2):
        assert f"{RUN}-train-worker-{node} was started again; its log goes on" in followed.stderr

    ours = product.fetch()
    check_whole(ours)
    check_same_training(ours, reference, "train")
    copies = read_copies(ours, "train")
    assert {0, 1, 2} <= set(copies)  # those of both pods; the killed one had nothing to say
    assert read_shown(followed.stdout) == copies
    assert any("msg=resumed" in line for line in copies[0])
