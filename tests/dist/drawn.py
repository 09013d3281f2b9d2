"""Features that are drawn, not extracted: enough rows to keep k-means at work for a while."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.artifacts.manifest import Identity, write_manifest
from clusterfit.artifacts.part import part_name, write_part

NUM_IMAGES, DIM, NUM_CLUSTERS = 12001, 96, 150
UNREADABLE: Final = [0, 3000, 3001, 12000]

CLUSTER: Final[dict[str, Any]] = {
    "numClusters": NUM_CLUSTERS,
    "numIterations": 40,
    "stopImprovement": 0.0,
    "normalize": False,
    "numNearest": 3,
}


def write_drawn_features(storage_root: Path, name: str, num_images: int = NUM_IMAGES) -> None:
    """Write a run's features: rows without any groups, and some images that could not be read."""
    random = np.random.default_rng(0)
    drawn = random.normal(size=(num_images, DIM)) * np.geomspace(3, 0.3, DIM) + 2
    readable = np.setdiff1d(np.arange(num_images), UNREADABLE)
    write_features(storage_root, name, "train", drawn.astype(np.float32), readable)


def write_features(
    storage_root: Path, name: str, partition: str, rows: np.ndarray, readable: np.ndarray
) -> None:
    """Write (N, D) float32 rows of N images, as far as these could be read."""
    folder = RunDirectory(storage_root, name).features("res5avg", partition)
    records = []
    for number, start in enumerate(range(0, len(readable), 1000)):
        indices = readable[start : start + 1000]
        path = folder / part_name(number)
        records.append(write_part(path, rows[indices], indices, "f", {}))
    results = {"num_samples": len(rows), "feature_dim": rows.shape[1]}
    identity = Identity("extract", {}, {f"data.{partition}": "d"})
    write_manifest(folder, identity, records, results, {})
