"""A disk that is soon full, and partitions of features."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import run

import numpy as np
import pytest

from clusterfit.artifacts.manifest import Identity, write_manifest
from clusterfit.artifacts.part import part_name, write_part
from tests.unsuitable import give_up


@pytest.fixture
def write_partition(tmp_path: Path) -> Callable[[list[np.ndarray], list[np.ndarray]], Path]:
    """Write a finished partition: one array of features, and one of sample indices, a part."""

    def write(features: list[np.ndarray], sample_indices: list[np.ndarray]) -> Path:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        identity = Identity("extract", {}, {"data.train": "d" * 64, "weights": "w" * 64})
        names = [part_name(number) for number in range(len(features))]
        for name, rows, indices in zip(names, features, sample_indices, strict=True):
            write_part(folder / name, rows, indices, identity.fingerprint, {})
        results = {
            "num_samples": 1000,
            "feature_dim": max((rows.shape[1] for rows in features), default=0),
        }
        write_manifest(folder, identity, names, results, {})
        return folder

    return write


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 1 MB; only root may."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid():
        give_up("mounting a file system needs root")
    mounted = run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        give_up(f"cannot mount a tmpfs: {mounted.stderr.strip()}")
    yield folder
    run(["umount", "-l", folder], check=True)
