"""A rank is killed while somebody reads the log: neither work nor lines are lost."""

from __future__ import annotations

from collections import defaultdict

import pytest

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.logline import parse_line
from tests.e2e.artifacts import check_same_weights, check_whole
from tests.e2e.digits import RUN, WORLD_SIZE
from tests.e2e.product import Product, uids

pytestmark = pytest.mark.core


def read_copies(run: RunDirectory, stage: str) -> dict[int, list[str]]:
    """Return what each rank has said in all attempts, as its copies on the claim have it."""
    copies: dict[int, list[str]] = defaultdict(list)
    attempts = sorted((run.root / "logs" / stage).iterdir(), key=lambda path: path.name)
    for attempt, folder in enumerate(attempts, start=1):
        assert folder.name == f"attempt-{attempt}"
        for rank in range(WORLD_SIZE):
            copies[rank] += run.rank_log(stage, attempt, rank).read_text().splitlines()
    assert len(attempts) > 1
    return copies


def test_killed_rank_costs_neither_work_nor_lines(
    product: Product, reference: RunDirectory
) -> None:
    product.put_results(reference, "data", "extract")
    product.submit("pipeline", {"stages": ["cluster", "train"]})
    with product.begin("logs", RUN, "train", "--all-ranks", "--follow") as follow:
        follow.wait_until(lambda typed: typed.remarks == ["waiting for a pod of train"])
        assert product.pods("train") == []
        before = uids(product.wait_for_pods("train", lambda pods: len(pods) == 2))
        product.wait_for_line("train", "msg=epoch epoch=3 ")
        product.kill_rank("train", rank=3)
        product.wait_for_success("train")
        followed = follow.wait(60).expect(0)
    assert not set(before) & set(uids(product.pods("train")))
    for node in range(2):
        assert f"{RUN}-train-worker-{node} was started again; its log goes on" in followed.stderr

    ours = product.fetch()
    check_whole(ours)
    check_same_weights(ours, reference, "train")
    said: dict[int, list[str]] = defaultdict(list)
    for line in followed.stdout.splitlines():
        fields = parse_line(line)
        if fields and "rank" in fields:
            said[int(fields["rank"])].append(line)
    copies = read_copies(ours, "train")
    assert said == copies
    assert all(f" rank={rank} " in line for rank in copies for line in copies[rank])
    assert any("msg=resumed" in line for line in copies[0])
