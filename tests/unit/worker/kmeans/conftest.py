"""Rows to cluster, and an independent program to hold results against."""

from __future__ import annotations

import numpy as np
import pytest

from clusterfit.config.sections.clustering import Cluster
from clusterfit.worker.kmeans.engine import Assigned
from clusterfit.worker.kmeans.exact import SAMPLED_ROWS
from clusterfit.worker.kmeans.native import NativeKernel, load_native_kernel
from clusterfit.worker.kmeans.torch_engine import TorchEngine


@pytest.fixture(scope="session")
def native() -> NativeKernel:
    """Return the compiled loops; without a compiler there are none, and torch's do the work."""
    loaded, reason = load_native_kernel()
    if reason.startswith("no C++ compiler"):
        pytest.skip(reason)
    assert loaded is not None, reason
    return loaded


def draw(num_rows: int = 700, dim: int = 12, num_groups: int = 10, seed: int = 0) -> np.ndarray:
    """Return (num_rows, dim) float32 in loose groups."""
    random = np.random.default_rng(seed)
    means = random.normal(size=(num_groups, dim)) * 2
    noise = random.normal(size=(num_rows, dim))
    return (means[random.integers(num_groups, size=num_rows)] + noise).astype(np.float32)


def settings(num_clusters: int = 10, num_iterations: int = 15, **others: object) -> Cluster:
    """Return the settings of an engine that iterates to the end over rows as they are."""
    base = {"num_clusters": num_clusters, "num_iterations": num_iterations}
    return Cluster.model_validate(
        {"engine": "torch", "normalize": False, "stop_improvement": 0.0} | base | others
    )


def assign(rows: np.ndarray, centroids: np.ndarray, num_nearest: int = 1) -> Assigned:
    """Return what the torch engine assigns, measured on rows from all over."""
    assigner = TorchEngine().build_assigner(centroids, rows[:: 1 + len(rows) // SAMPLED_ROWS])
    return assigner.assign(rows, num_nearest)


def compute_distances(rows: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return (N, K) float64 squared distances, by definition."""
    differences = rows[:, None].astype(np.float64) - centroids[None].astype(np.float64)
    distances: np.ndarray = (differences**2).sum(-1)
    return distances


def iterate_lloyd(
    rows: np.ndarray, centroids: np.ndarray, num_iterations: int
) -> tuple[np.ndarray, list[float]]:
    """Return centroids and objectives of Lloyd's iterations in float64; no cluster runs empty."""
    current = centroids.astype(np.float64)
    objectives = []
    for _ in range(num_iterations):
        distances = compute_distances(rows, current)
        objectives.append(float(distances.min(1).sum()))
        nearest = distances.argmin(1)
        clusters = range(len(current))
        current = np.stack([rows[nearest == k].astype(np.float64).mean(0) for k in clusters])
    return current, objectives
