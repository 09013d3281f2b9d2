"""Clustering by one, two and four processes over the same features, stopped, killed and resumed."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

from clusterfit.artifacts.files import compute_sha256
from clusterfit.artifacts.manifest import read_manifest
from clusterfit.artifacts.parts import FeatureTable

from .door import Bench
from .drawn import NUM_CLUSTERS, NUM_IMAGES, UNREADABLE


@pytest.fixture(scope="module")
def by_two(features: Bench) -> Bench:
    """Two processes, left alone."""
    bench = features.changed({"name": "two"})
    bench.succeed("cluster", 2)
    return bench


def test_clusters_and_nearest_are_those_of_an_independent_program(by_two: Bench) -> None:
    table = FeatureTable(by_two.storage_root / "made/extract/res5avg/train")
    rows = table.read_rows(0, table.num_rows).astype(np.float64)
    centroids = np.load(by_two.run.centroids()).astype(np.float64)
    scores = rows @ centroids.T - 0.5 * (centroids**2).sum(1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :3]
    distances_sq = ((rows - centroids[order[:, 0]]) ** 2).sum(1)
    assignments = np.load(by_two.run.assignments("train"))
    np.testing.assert_array_equal(assignments[table.sample_indices], order[:, 0])
    assert assignments[UNREADABLE].tolist() == [-1] * 4
    found = np.load(by_two.run.distances_sq("train"))
    np.testing.assert_allclose(found[table.sample_indices], distances_sq, rtol=1e-4)
    assert np.isnan(found[UNREADABLE]).all()
    nearest = np.load(by_two.run.stage("cluster") / "train" / "nearest.npy")
    assert nearest.shape == (NUM_IMAGES, 3)
    assert (nearest[table.sample_indices] == order).mean() > 0.999
    results = read_manifest(by_two.run.stage("cluster")).results
    told = results["partitions"]["train"]
    assert told["objective"] == pytest.approx(distances_sq.sum(), rel=1e-6)
    assert told["sizes"] == np.bincount(order[:, 0], minlength=NUM_CLUSTERS).tolist()
    assert told["num_audited"] > 40
    assert told["num_audited_wrong"] == 0
    assert results["objectives"] == sorted(results["objectives"], reverse=True)
    assert results["engine"] == "torch"


@pytest.mark.parametrize("nproc", [1, pytest.param(4, marks=pytest.mark.campaign)])
def test_another_number_of_processes_ends_at_the_same_objective(
    features: Bench, by_two: Bench, nproc: int
) -> None:
    bench = features.changed({"name": f"by-{nproc}"})
    bench.succeed("cluster", nproc)
    ours, theirs = (
        read_manifest(each.run.stage("cluster")).results["partitions"]["train"]
        for each in (bench, by_two)
    )
    assert ours["objective"] == pytest.approx(theirs["objective"], rel=1e-3)
    assert ours["num_assigned"] == theirs["num_assigned"] == NUM_IMAGES - len(UNREADABLE)


def test_a_clustering_that_was_stopped_and_killed_ends_in_the_same_bits(
    features: Bench, by_two: Bench
) -> None:
    bench = features.changed({"name": "disturbed"})
    process = bench.start("cluster", 2)
    process.wait_for_line("msg=arithmetic")
    process.send(signal.SIGTERM)
    stopped = process.wait()
    assert stopped.code == 143, stopped.text
    assert "stopped by SIGTERM after iteration" in stopped.text
    process = bench.start("cluster", 2)
    process.wait_for_line("msg=resumed")
    process.kill()
    process.wait()
    finished = bench.succeed("cluster", 2)
    assert "msg=resumed" in finished.text
    assert_equal_bits(bench, by_two)


@pytest.mark.campaign  # the one above resumes as well, and the writing has unit tests
def test_a_clustering_that_was_killed_goes_on_from_its_last_checkpoint(
    features: Bench, by_two: Bench, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "from clusterfit.worker.kmeans import checkpoint\ncheckpoint.CHECKPOINT_SECONDS = 0\n",
        encoding="utf-8",
    )
    bench = features.changed({"name": "killed"})
    process = bench.start("cluster", 2, PYTHONPATH=str(tmp_path))
    path = bench.run.stage("cluster") / "checkpoint.bin"
    assert process.wait_until(path.exists), process.text
    process.kill()
    process.wait()
    finished = bench.succeed("cluster", 2)
    assert "msg=resumed" in finished.text
    assert_equal_bits(bench, by_two)


def assert_equal_bits(bench: Bench, other: Bench) -> None:
    """Compare all arrays of two runs; nothing else is left."""
    for path in other.run.stage("cluster").rglob("*.npy"):
        name = path.relative_to(other.run.stage("cluster"))
        assert compute_sha256(bench.run.stage("cluster") / name) == compute_sha256(path), name
    assert list(bench.run.root.rglob(".*")) == []
    assert not (bench.run.stage("cluster") / "checkpoint.bin").exists()
