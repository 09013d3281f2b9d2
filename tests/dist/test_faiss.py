"""The cluster stage with faiss' engine: rank 0 fits, the others wait, and all of them assign."""

from __future__ import annotations

import signal
from typing import Any

import numpy as np
import pytest
from sklearn.cluster import KMeans

from clusterfit.artifacts.manifest import read_manifest
from clusterfit.artifacts.parts import FeatureTable
from clusterfit.logline import parse_line

from .door import Bench
from .drawn import NUM_CLUSTERS, NUM_IMAGES, UNREADABLE

FAISS: dict[str, Any] = {"cluster.engine": "faiss", "cluster.init": "random"}


@pytest.fixture(scope="module")
def by_one(features: Bench) -> Bench:
    """One process, left alone."""
    bench = features.changed({"name": "faiss-1", **FAISS})
    bench.succeed("cluster", 1)
    return bench


def test_it_ends_where_scikit_learn_does_from_the_same_start(by_one: Bench) -> None:
    table = FeatureTable(by_one.storage_root / "made/extract/res5avg/train")
    rows = table.read_rows(0, table.num_rows)
    start = np.load(by_one.run.stage("cluster") / "initial_centroids.npy")
    theirs = KMeans(NUM_CLUSTERS, init=start, n_init=1, max_iter=40, tol=0).fit(rows)
    results = read_manifest(by_one.run.stage("cluster")).results
    assert results["engine"] == "faiss"
    assert len(results["objectives"]) == 40
    assert results["partitions"]["train"]["objective"] == pytest.approx(theirs.inertia_, rel=1e-3)


def test_rows_are_assigned_as_an_independent_program_does(by_one: Bench) -> None:
    table = FeatureTable(by_one.storage_root / "made/extract/res5avg/train")
    rows = table.read_rows(0, table.num_rows).astype(np.float64)
    centroids = np.load(by_one.run.centroids()).astype(np.float64)
    order = np.argsort(0.5 * (centroids**2).sum(1) - rows @ centroids.T, axis=1)[:, :3]
    assignments = np.load(by_one.run.assignments("train"))
    assert (assignments[table.sample_indices] == order[:, 0]).mean() > 0.9999
    assert assignments[UNREADABLE].tolist() == [-1] * 4
    nearest = np.load(by_one.run.stage("cluster") / "train" / "nearest.npy")
    assert (nearest[table.sample_indices] == order).mean() > 0.999


@pytest.mark.parametrize("nproc", [2, pytest.param(3, marks=pytest.mark.campaign)])
def test_any_number_of_processes_finds_the_same(features: Bench, by_one: Bench, nproc: int) -> None:
    bench = features.changed({"name": f"faiss-{nproc}", **FAISS})
    bench.succeed("cluster", nproc)
    ours, theirs = (np.load(each.run.centroids()) for each in (bench, by_one))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    ours, theirs = (np.load(each.run.assignments("train")) for each in (bench, by_one))
    assert len(ours) == NUM_IMAGES
    assert (ours == theirs).mean() > 0.999


@pytest.mark.campaign
def test_a_fit_that_sigterm_has_stopped_goes_on_while_peers_wait(features: Bench) -> None:
    long = features.changed({**FAISS, "cluster.numIterations": 300})
    calm, bench = long.changed({"name": "faiss-calm"}), long.changed({"name": "faiss-rough"})
    calm.succeed("cluster", 2)
    process = bench.start("cluster", 2)
    process.wait_for_line("msg=arithmetic")
    process.send(signal.SIGTERM)
    stopped = process.wait()
    assert stopped.code == 143, stopped.text
    told = {
        line["rank"]: line["msg"]
        for line in map(parse_line, stopped.lines)
        if line and line["msg"].startswith("stopped by SIGTERM")
    }
    assert told["0"].startswith("stopped by SIGTERM after iteration"), "it fits"
    assert told["1"] == "stopped by SIGTERM; what is finished is kept", "it waits"
    assert "Traceback" not in stopped.text
    assert stopped.faults() == []
    finished = bench.succeed("cluster", 2)
    assert "msg=resumed" in finished.text
    results = read_manifest(bench.run.stage("cluster")).results
    assert len(results["objectives"]) == 300
    for name in ("initial_centroids.npy", "centroids.npy"):
        ours, theirs = (np.load(each.run.stage("cluster") / name) for each in (bench, calm))
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    assert not (bench.run.stage("cluster") / "checkpoint.bin").exists()
