"""The cluster stage is a Job where the others are PyTorchJobs: its faults end as theirs do.

Its features are drawn, not extracted: rows of few dimensions and without any groups, on which
k-means is at work for a while.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.artifacts.manifest import read_manifest
from clusterfit.errors import KILLED_EXIT_CODE, InvalidDataError, MissingInputError, WriteError
from tests.cluster.cluster import Cluster
from tests.cluster.manifests import claim
from tests.cluster.storage import SMALL_CLASS
from tests.dist.drawn import write_features
from tests.e2e.artifacts import check_whole
from tests.e2e.digits import RUN, run_here
from tests.e2e.endings import check_failed, exit_code
from tests.e2e.helm import RUN_CHART, helm
from tests.e2e.holds import held, hold_on, let_go
from tests.e2e.product import Product, uids
from tests.e2e.said import read_start, read_stop

NUM_ROWS, DIM = 200_000, 8
CLUSTER: dict[str, Any] = {
    "stages": ["cluster"],
    "inputs.features": "drawn",
    "data.val": "",
    "cluster.numClusters": 2000,
    "cluster.numIterations": 100,
    "cluster.numCandidates": 0,
    "cluster.relaxation": 1,
    "cluster.stopImprovement": 0.0,
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of features alone."""
    run = RunDirectory(tmp_path_factory.mktemp("drawn"), "drawn")
    rows = np.random.default_rng(0).normal(size=(NUM_ROWS, DIM)).astype(np.float32)
    write_features(run.storage_root, run.name, "train", rows, np.arange(NUM_ROWS))
    return run


@pytest.fixture(scope="module")
def undisturbed(drawn: RunDirectory, images: Path) -> float:
    """The objective of the same clustering on this computer, which nothing has disturbed."""
    return read_objective(run_here("cluster", images, drawn.storage_root, CLUSTER))


def read_objective(run: RunDirectory) -> float:
    """Return the sum of squared distances that a clustering has ended with."""
    told = read_manifest(run.stage("cluster")).results["partitions"]["train"]
    assert told["num_assigned"] == NUM_ROWS
    return float(told["objective"])


@pytest.fixture
def clustering(user: Product, drawn: RunDirectory) -> Product:
    """A user whose run clusters those features."""
    user.put(drawn.root, "storage:drawn")
    held(user, {"some": r"msg=progress done=[1-9]\d* total=100 unit=iterations "}).submit(
        "cluster", CLUSTER
    )
    user.wait_for_line("cluster", "msg=held at=some")
    return user


def check_clustering(product: Product, undisturbed: float) -> RunDirectory:
    """Wait until the clustering is over and hold it against the undisturbed one."""
    product.wait_for_success("cluster")
    ours = product.fetch()
    check_whole(ours)
    # Another compiler may order sums differently, and the same rows have many equal clusterings.
    assert read_objective(ours) == pytest.approx(undisturbed, rel=1e-3)
    return ours


def test_killed_rank_is_tried_again(clustering: Product, undisturbed: float) -> None:
    before = uids(clustering.pods("cluster"))
    clustering.kill_rank("cluster", rank=1)
    let_go(clustering, "some")
    check_clustering(clustering, undisturbed)
    killed, second = clustering.pods("cluster")
    assert uids([killed]) == before
    assert exit_code(killed) == KILLED_EXIT_CODE
    assert exit_code(second) == 0
    job = clustering.job("cluster")
    assert job is not None
    assert job["status"]["failed"] == 1
    code, stages = clustering.status()
    assert (code, stages["cluster"]["phase"], stages["cluster"]["restarts"]) == (0, "succeeded", 1)


@pytest.mark.parametrize("fault", ["deleted", "evicted"])
def test_lost_pod_goes_on_and_counts_as_no_failure(
    clustering: Product, undisturbed: float, fault: str
) -> None:
    (before,) = clustering.pods("cluster")
    if fault == "evicted":
        clustering.evict_pod(before["metadata"]["name"])
    else:
        clustering.delete_pod(before["metadata"]["name"])
    let_go(clustering, "some")
    ours = check_clustering(clustering, undisturbed)
    assert read_start(ours, "cluster", attempt=2) == read_stop(ours, "cluster", attempt=1)
    (after,) = clustering.pods("cluster")
    assert uids([before]) != uids([after])
    job = clustering.job("cluster")
    assert job is not None
    assert job["status"].get("failed", 0) == 0


def test_second_writer_waits_for_one_that_is_still_to_end(
    clustering: Product, undisturbed: float
) -> None:
    """As where a release is uninstalled and another one is installed at once."""
    hold_on(clustering)
    # Of the same values it would be the same submission, which succeeds itself.
    run_file = clustering.write({**CLUSTER, "platform.memoryGibPerNode": 1.5})
    helm(clustering, "uninstall", f"{RUN}-cluster")
    helm(clustering, "install", "another-name", RUN_CHART, "-f", run_file)
    clustering.wait_for_line("cluster", "waiting up to 60 s for it to end")
    let_go(clustering, "some")
    ours = check_clustering(clustering, undisturbed)
    assert read_start(ours, "cluster", attempt=2) == read_stop(ours, "cluster", attempt=1)
    job = clustering.job("cluster")
    assert job is not None
    assert job["status"].get("failed", 0) == 0


def test_missing_features_are_not_waited_for(user: Product) -> None:
    user.submit("cluster", CLUSTER)
    check_failed(user, "cluster", MissingInputError.exit_code, "drawn")
    assert len(user.pods("cluster")) == 1


def test_full_storage_is_not_tried_again(
    cluster: Cluster, user: Product, drawn: RunDirectory
) -> None:
    user = replace(user, changes={"platform.storage": {"claim": "small"}})
    user.namespace.kubectl.create(claim("small", storage_class=SMALL_CLASS, size="32Mi"))
    user.put(drawn.root, "storage:drawn")
    user.fill("small")
    user.submit("cluster", CLUSTER)
    wanted = "the run directory cannot be written: No space left on device"
    check_failed(user, "cluster", WriteError.exit_code, wanted)
    assert len(user.pods("cluster")) == 1


def test_permanent_failure_is_not_tried_again(user: Product, drawn: RunDirectory) -> None:
    user.put(drawn.root, "storage:drawn")
    user.submit("cluster", {**CLUSTER, "cluster.numClusters": NUM_ROWS + 1})
    wanted = f"got {NUM_ROWS + 1}, want at most the {NUM_ROWS} images"
    check_failed(user, "cluster", InvalidDataError.exit_code, wanted)
    assert len(user.pods("cluster")) == 1
