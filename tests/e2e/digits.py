"""A few real images, and a run file whose stages take seconds on 2 pods of 2 processes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.worker.cores import count_cores
from tests.cluster.commands import run
from tests.cluster.namespace import DATA_CLAIM, STORAGE_CLAIM

RUN = "digits"
NODES, PROCESSES_PER_NODE = 2, 2
WORLD_SIZE = NODES * PROCESSES_PER_NODE
NUM_TRAIN, NUM_VAL = 203, 37
"""No multiple of anything: what is padded, dropped or counted twice shows."""
RARELY = 100_000
"""Steps between checkpoints, more than there are: the only one is that of a training that is told
to stop. (So is that of an epoch that ends half a minute after the last.)"""

_RECIPE = {
    "model": "resnet8_small",
    "epochs": 2,
    "batchSizePerRank": 8,
    "schedule": "cosine",
    "cropPixels": 8,
    "precision": "fp32",
    "horizontalFlip": False,
}
_VIEW = {"resizePixels": 9, "cropPixels": 8, "precision": "fp32", "batchSizePerRank": 8}
# Large pictures of the small digits: an extract during which something can happen.
SLOW_VIEW: dict[str, Any] = {
    "extract.resizePixels": 192,
    "extract.cropPixels": 160,
    "extract.rowsPerPart": 4,
    "extract.batchSizePerRank": 4,
}

RUN_FILE: dict[str, Any] = {
    "formatVersion": 1,
    "name": RUN,
    "stages": ["pretext", "extract", "cluster", "train", "evaluate"],
    "device": "cpu",
    "data": {"train": "digits/train", "val": "digits/val", "loadersPerRank": 0},
    "pretext": _RECIPE,
    "extract": {
        **_VIEW,
        "model": "resnet8_small",
        "weights": {"from": "pretext"},
        "dtype": "float32",
        "rowsPerPart": 16,
    },
    "cluster": {"numClusters": 10, "numIterations": 5},
    # Long enough that something can happen meanwhile, also where a command takes seconds to start.
    "train": {**_RECIPE, "epochs": 60, "checkpointEverySteps": 5},
    "evaluate": {
        **_VIEW,
        "labelsPerClass": [2],
        "backbones": [
            {"label": "pretext", "from": "run", "stage": "pretext"},
            {"label": "ClusterFit", "from": "run", "stage": "train"},
        ],
    },
    "platform": {
        "gpus": 0,
        "nodesWithoutGpus": NODES,
        "processesPerNode": PROCESSES_PER_NODE,
        "cpusPerNode": 0.3,
        "memoryGibPerNode": 2,
        "shmGibPerNode": 0.25,
        "data": {"claim": DATA_CLAIM},
        "storage": {"claim": STORAGE_CLAIM},
    },
}


def write_images(root: Path) -> None:
    """Write scikit-learn's digits as `root`/digits/{train,val}/<digit>/<number>.png."""
    digits = load_digits()
    for number in range(NUM_TRAIN + NUM_VAL):
        partition = "train" if number < NUM_TRAIN else "val"
        path = root / RUN / partition / str(digits.target[number]) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 15).astype(np.uint8)).save(path)


def write_run_file(path: Path, image: str, changes: Mapping[str, Any] | None = None) -> Path:
    """Write a run file for an image, with other values at some dotted keys."""
    settings = json.loads(json.dumps(RUN_FILE))
    repository, _, tag = image.rpartition(":")
    platform_image = {"repository": repository, "tag": tag}
    for key, value in {"platform.image": platform_image, **(changes or {})}.items():
        *sections, last = key.split(".")
        section = settings
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = value
    path.write_text(json.dumps(settings, indent=1), encoding="utf-8")  # YAML holds JSON
    return path


def describe_threads() -> dict[str, str]:
    """Return the variables that give a rank here the threads that one in a pod has.

    Sums are split by them, and with them the last bits of weights.
    """
    return {"OMP_NUM_THREADS": str(max(1, count_cores() // PROCESSES_PER_NODE))}


def run_here(
    step: str, images: Path, storage_root: Path, changes: Mapping[str, Any] | None = None
) -> RunDirectory:
    """Run the digits on this computer, by `clusterfit run` and as many ranks as on a cluster."""
    storage_root.mkdir(exist_ok=True)
    run_file = write_run_file(storage_root / f"{RUN}.yaml", "not-used:here", changes)
    clusterfit = Path(sys.executable).with_name("clusterfit")
    run(
        [
            *(clusterfit, "run", step, "-f", run_file, f"--nproc-per-node={WORLD_SIZE}"),
            *(f"--data-root={images}", f"--storage-root={storage_root}"),
        ],
        env=describe_threads(),
        timeout_seconds=900,
    )
    return RunDirectory(storage_root, RUN)
