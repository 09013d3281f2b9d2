"""A data set of 67 + 13 digits and a run file whose stages take a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from .door import Bench
from .drawn import CLUSTER, write_drawn_features

NUM_TRAIN, NUM_VAL = 67, 13

_RECIPE = {
    "model": "resnet8_small",
    "epochs": 3,
    "batchSizePerRank": 8,
    "schedule": "cosine",
    "cropPixels": 8,
    "precision": "fp32",
}
_VIEW = {"resizePixels": 9, "cropPixels": 8, "precision": "fp32", "batchSizePerRank": 8}

CONFIG: dict[str, Any] = {
    "formatVersion": 1,
    "name": "tiny",
    "stages": ["pretext", "extract", "cluster", "train", "evaluate"],
    "device": "cpu",
    "data": {"train": "train", "val": "val", "loadersPerRank": 0},
    "pretext": _RECIPE,
    "extract": {
        **_VIEW,
        "model": "resnet8_small",
        "weights": {"from": "pretext"},
        "dtype": "float32",
        "rowsPerPart": 16,
    },
    "cluster": {"numClusters": 7, "numIterations": 5},
    "train": {**_RECIPE, "cropMinScale": 0.6},
    "evaluate": {
        **_VIEW,
        "labelsPerClass": [2],
        "backbones": [
            {"label": "random", "from": "random", "model": "resnet8_small"},
            {"label": "pretext", "from": "run", "stage": "pretext"},
            {"label": "ClusterFit", "from": "run", "stage": "train"},
        ],
    },
}


def write_images(folder: Path, first: int, count: int) -> None:
    """Write some of scikit-learn's digits as PNG files in one folder a class."""
    digits = load_digits()
    for number in range(first, first + count):
        path = folder / str(digits.target[number]) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 15).astype(np.uint8)).save(path)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root that no test changes."""
    root = tmp_path_factory.mktemp("images")
    write_images(root / "train", 0, NUM_TRAIN)
    write_images(root / "val", NUM_TRAIN, NUM_VAL)
    return root


@pytest.fixture(scope="session")
def features(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A run file of the cluster stage alone, and the run whose drawn features it reads."""
    root = tmp_path_factory.mktemp("cluster") / "runs"
    write_drawn_features(root, "made")
    changes = {"stages": ["cluster"], "inputs": {"features": "made"}, "data.val": ""}
    return Bench(images, root, CONFIG).changed({**changes, "cluster": CLUSTER})


@pytest.fixture
def bench(images: Path, tmp_path: Path) -> Bench:
    """A run of one's own over the common images."""
    return Bench(images, tmp_path / "runs", CONFIG)
