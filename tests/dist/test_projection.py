"""Settings of rows and centroids, through the stage by two processes, beside scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from clusterfit.artifacts.manifest import read_manifest
from clusterfit.artifacts.parts import FeatureTable

from .door import Bench
from .drawn import NUM_IMAGES, UNREADABLE

NUM_CLUSTERS, PCA_DIM, NUM_ITERATIONS = 40, 8, 15

LLOYD: dict[str, Any] = {
    "cluster.engine": "torch",
    "cluster.init": "random",
    "cluster.numCandidates": 0,
    "cluster.relaxation": 1,
    "cluster.numClusters": NUM_CLUSTERS,
    "cluster.numIterations": NUM_ITERATIONS,
}


def read_rows(bench: Bench) -> tuple[np.ndarray, np.ndarray]:
    """Return all (n, D) rows and their (n,) sample indices."""
    table = FeatureTable(bench.storage_root / "made/extract/res5avg/train")
    return table.read_rows(0, table.num_rows), table.sample_indices


def test_whitened_components_and_their_clusters_are_those_of_scikit_learn(features: Bench) -> None:
    bench = features.changed(
        {"name": "whitened", **LLOYD, "cluster.pcaDim": PCA_DIM, "cluster.pcaWhiten": True}
    )
    bench.succeed("cluster", 2)
    rows, sample_indices = read_rows(bench)
    folder = bench.run.stage("cluster")
    pca = PCA(PCA_DIM, whiten=True, svd_solver="full").fit(rows.astype(np.float64))
    np.testing.assert_allclose(np.load(folder / "pca_mean.npy"), pca.mean_, rtol=1e-5)
    ours = np.load(folder / "pca_components.npy")  # (D, d)
    theirs = pca.components_.T / np.sqrt(pca.explained_variance_)
    signs = np.sign((ours * theirs).sum(0))  # an eigenvector's is arbitrary
    np.testing.assert_allclose(ours, theirs * signs, rtol=1e-3, atol=1e-4)

    projected = pca.transform(rows.astype(np.float64)) * signs
    np.testing.assert_allclose(projected.std(0), 1, rtol=1e-3)
    start = np.load(folder / "initial_centroids.npy")
    assert start.shape == (NUM_CLUSTERS, PCA_DIM)
    lloyd = KMeans(NUM_CLUSTERS, init=start, n_init=1, max_iter=NUM_ITERATIONS, tol=0)
    found = lloyd.fit(projected)
    assignments = np.load(bench.run.assignments("train"))
    told = read_manifest(folder).results["partitions"]["train"]
    assert told["objective"] == pytest.approx(found.inertia_, rel=1e-3)
    # scikit-learn counts labels of the centroids that it ends with, as the stage does.
    assert (assignments[sample_indices] == found.labels_).mean() > 0.97
    np.testing.assert_allclose(np.load(bench.run.centroids()), found.cluster_centers_, atol=0.1)
    assert assignments[UNREADABLE].tolist() == [-1] * 4


@pytest.mark.campaign
def test_a_draw_of_rows_and_spherical_centroids(features: Bench) -> None:
    bench = features.changed(
        {
            "name": "spherical",
            **LLOYD,
            "cluster.normalize": True,
            "cluster.spherical": True,
            "cluster.maxPointsPerCentroid": 50,
        }
    )
    ending = bench.succeed("cluster", 2)
    assert f"msg=clustering num_rows={50 * NUM_CLUSTERS} " in ending.text
    rows, sample_indices = read_rows(bench)
    directions = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    centroids = np.load(bench.run.centroids())
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, rtol=1e-5)
    assignments = np.load(bench.run.assignments("train"))
    assert len(assignments) == NUM_IMAGES
    cosines = directions.astype(np.float64) @ centroids.T.astype(np.float64)
    # Not only those that were drawn; and by the largest cosine, as the norms are all alike.
    np.testing.assert_array_equal(assignments[sample_indices], cosines.argmax(1))
    told = read_manifest(bench.run.stage("cluster")).results
    # Objectives of the fit are those of the draw alone.
    assert told["objectives"][-1] < 0.6 * told["partitions"]["train"]["objective"]
