"""What an earlier stage wrote is only used while it is what its manifest vouches for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from clusterfit.artifacts.dataset import Samples, write_samples
from clusterfit.artifacts.layout import RunDirectory
from clusterfit.artifacts.manifest import Identity, write_manifest
from clusterfit.config.loading import check_values
from clusterfit.errors import InvalidDataError
from clusterfit.interop.vissl_labels import export_run_labels
from clusterfit.worker.arguments import Assignment
from clusterfit.worker.context import Context
from clusterfit.worker.stages.clusters import read_clusters

SAMPLES = Samples(("t/a/0.png", "t/a/1.png", "t/b/0.png"), None, ())


def flip_bit(path: Path, place: int) -> None:
    """Flip the lowest bit of one byte."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_pretext_weights_with_a_wrong_bit_extract_nothing(
    run_stage: Callable[..., None], run_directory: RunDirectory
) -> None:
    run_stage("pretext", {})
    flip_bit(run_directory.backbone("pretext"), -1)
    with pytest.raises(InvalidDataError, match=r"model\.safetensors: content differs.* pretext ag"):
        run_stage("extract", {"weights": {"from": "pretext"}})


@pytest.fixture
def clustered(run_directory: RunDirectory) -> RunDirectory:
    """Return a run whose three images are in clusters 0, 1 and 0."""
    write_samples(run_directory.data("train"), SAMPLES)
    path = run_directory.assignments("train")
    path.parent.mkdir(parents=True)
    np.save(path, np.array([0, 1, 0]))
    partitions = {"train": {"data_fingerprint": SAMPLES.fingerprint}}
    write_manifest(
        run_directory.stage("cluster"),
        Identity("cluster", {}, {}),
        ["train/assignments.npy"],
        {"num_clusters": 2, "partitions": partitions},
        {},
    )
    return run_directory


def train_on(run: RunDirectory) -> list[int]:
    run_file = check_values({"formatVersion": 1, "name": run.name, "stages": ["train"]})
    config = run_file.algorithm()
    assignment = Assignment("train", config, Path("data"), run, "")
    context = SimpleNamespace(config=config, run=run, assignment=assignment)
    found: list[int] = (
        read_clusters(cast(Context, context), {"train": SAMPLES}).assignments["train"].tolist()
    )
    return found


def test_assignments_with_a_wrong_bit_are_not_trained_on_nor_exported(
    clustered: RunDirectory, tmp_path: Path
) -> None:
    assert train_on(clustered) == [0, 1, 0]
    flip_bit(clustered.assignments("train"), -8)  # the last image, into the other cluster
    for use in (train_on, lambda run: export_run_labels(run, "train", tmp_path / "labels")):
        with pytest.raises(InvalidDataError, match=r"assignments\.npy: content differs"):
            use(clustered)
    assert not (tmp_path / "labels").exists()
