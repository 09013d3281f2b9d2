"""Clusters within a limit by one and two processes, stopped, killed and resumed.

The features are drawn in groups of very different sizes; some images could not be read.
"""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterfit.artifacts.files import compute_sha256
from clusterfit.artifacts.manifest import read_manifest
from clusterfit.artifacts.parts import FeatureTable

from .conftest import CONFIG
from .door import Bench
from .drawn import write_features

NUM_TRAIN, NUM_VAL, DIM, NUM_CLUSTERS, RATIO = 3001, 500, 96, 60, 1.2
UNREADABLE = [0, 1500, 3000]
LIMIT = 60  # 1.2 times 2,998 / 60, rounded up

CLUSTER: dict[str, Any] = {
    "numClusters": NUM_CLUSTERS,
    "numIterations": 10,
    "maxSizeRatio": RATIO,
    "stopImprovement": 0.0,
    "normalize": False,
    "numNearest": 3,
}


@pytest.fixture(scope="module")
def features(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A run file of the cluster stage alone, and the run whose features it reads."""
    root = tmp_path_factory.mktemp("balance") / "runs"
    random = np.random.default_rng(0)
    weights = np.arange(1, 41) ** -1.2
    means = random.normal(size=(40, DIM)) * 2
    for partition, num_images in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        groups = random.choice(40, num_images, p=weights / weights.sum())
        rows = (means[groups] + random.normal(size=(num_images, DIM))).astype(np.float32)
        unreadable = UNREADABLE if partition == "train" else []
        readable = np.setdiff1d(np.arange(num_images), unreadable)
        write_features(root, "made", partition, rows, readable)
    changes = {"stages": ["cluster"], "inputs": {"features": "made"}, "data.val": "val"}
    return Bench(images, root, CONFIG).changed({**changes, "cluster": CLUSTER})


@pytest.fixture(scope="module")
def by_two(features: Bench) -> Bench:
    """Two processes, left alone."""
    bench = features.changed({"name": "two"})
    bench.succeed("cluster", 2)
    return bench


def compute_costs(bench: Bench, partition: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (n, K) squared distances of rows, (K,) prices and (n,) sample indices."""
    table = FeatureTable(bench.storage_root / f"made/extract/res5avg/{partition}")
    rows = table.read_rows(0, table.num_rows).astype(np.float64)
    centroids = np.load(bench.run.centroids()).astype(np.float64)
    distances_sq = (rows**2).sum(1)[:, None] - 2 * rows @ centroids.T + (centroids**2).sum(1)
    prices = np.load(bench.run.stage("cluster") / "prices.npy")
    assert prices.dtype == np.float32
    return distances_sq, prices, table.sample_indices


def test_train_keeps_to_the_limit_and_val_goes_by_the_same_prices(by_two: Bench) -> None:
    distances_sq, prices, sample_indices = compute_costs(by_two, "train")
    assignments = np.load(by_two.run.assignments("train"))
    assert assignments[UNREADABLE].tolist() == [-1] * 3
    clusters = assignments[sample_indices]
    sizes = np.bincount(clusters, minlength=NUM_CLUSTERS)
    assert sizes.sum() == NUM_TRAIN - 3
    assert sizes.max() == LIMIT
    assert np.bincount(distances_sq.argmin(1)).max() > 1.2 * LIMIT
    own_sq = distances_sq[np.arange(len(clusters)), clusters]
    found = np.load(by_two.run.distances_sq("train"))[sample_indices]
    np.testing.assert_allclose(found, own_sq, rtol=1e-4)
    nearest = np.load(by_two.run.stage("cluster") / "train" / "nearest.npy")
    np.testing.assert_array_equal(nearest[:, 0], assignments)
    distances_sq, _, sample_indices = compute_costs(by_two, "val")
    order = np.argsort(distances_sq + prices, axis=1)[:, :3]
    np.testing.assert_array_equal(np.load(by_two.run.assignments("val")), order[:, 0])
    nearest = np.load(by_two.run.stage("cluster") / "val" / "nearest.npy")
    assert (nearest == order).mean() > 0.999


def test_the_manifest_tells_the_method_and_proves_what_it_cost(by_two: Bench) -> None:
    distances_sq, prices, _ = compute_costs(by_two, "train")
    results = read_manifest(by_two.run.stage("cluster")).results
    told = results["partitions"]["train"]
    balance = told["balance"]
    assert balance["method"] == "auction"
    assert balance["max_size"] == max(told["sizes"]) == LIMIT
    # No assignment within the limit costs less, whatever the prices: rows pay the least there is.
    least = (distances_sq + prices).min(1).sum() - LIMIT * prices.sum(dtype=np.float64)
    assert balance["least_objective"] == pytest.approx(least, rel=1e-5)
    assert least <= told["objective"] <= 1.002 * least
    assert balance["objective_without"] == results["objectives"][-1]
    assert 1 <= len(balance["objectives"]) <= 10
    assert "balance" not in results["partitions"]["val"]


@pytest.mark.campaign
def test_one_process_ends_at_the_same_objective(features: Bench, by_two: Bench) -> None:
    bench = features.changed({"name": "one"})
    bench.succeed("cluster", 1)
    ours, theirs = (
        read_manifest(each.run.stage("cluster")).results["partitions"]["train"]
        for each in (bench, by_two)
    )
    assert ours["objective"] == pytest.approx(theirs["objective"], rel=1e-3)
    assert max(ours["sizes"]) == max(theirs["sizes"]) == LIMIT


@pytest.mark.campaign  # test_cluster.py stops and kills one without a limit
def test_what_was_stopped_and_killed_while_balancing_ends_in_the_same_bits(
    features: Bench, by_two: Bench
) -> None:
    bench = features.changed({"name": "disturbed"})
    process = bench.start("cluster", 2)
    process.wait_for_line("msg=balanced")
    process.send(signal.SIGTERM)
    stopped = process.wait()
    assert stopped.code == 143, stopped.text
    process = bench.start("cluster", 2)
    process.wait_for_line("msg=resumed")
    process.kill()
    process.wait()
    finished = bench.succeed("cluster", 2)
    assert "msg=resumed" in finished.text
    for path in by_two.run.stage("cluster").rglob("*.npy"):
        name = path.relative_to(by_two.run.stage("cluster"))
        assert compute_sha256(bench.run.stage("cluster") / name) == compute_sha256(path), name
    assert list(bench.run.root.rglob(".*")) == []


def test_damaged_prices_are_found(by_two: Bench) -> None:
    bench = by_two.changed({"name": "damaged"})
    shutil.copytree(by_two.run.root, bench.run.root)
    path = bench.run.stage("cluster") / "prices.npy"
    path.write_bytes(path.read_bytes()[:-4] + b"\x00\x00\x80\x7f")
    verified = bench.artifacts("verify")
    assert verified.code == 65, verified.text
    assert "prices.npy" in verified.text
    assert "differs from the manifest's sha256" in verified.text
