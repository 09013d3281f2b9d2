"""Assignments that the run file gives: whose row is whose must be beyond doubt."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from clusterfit.artifacts.dataset import Samples
from clusterfit.artifacts.layout import RunDirectory
from clusterfit.config.loading import check_values
from clusterfit.errors import InvalidDataError, MissingInputError
from clusterfit.worker.context import Context
from clusterfit.worker.stages.clusters import Clusters, read_clusters


def read(folder: Path, paths: list[str], data: dict[str, str]) -> Clusters:
    """Read the assignments of a run over these images, on a rank that does not log."""
    run_file = check_values(
        {"formatVersion": 1, "name": "run", "stages": ["train"], "data": data,
         "inputs": {"assignments": "labels.npy"}}
    )  # fmt: skip
    context = SimpleNamespace(
        config=run_file.algorithm(),
        run=RunDirectory(folder, "run"),
        env=SimpleNamespace(is_main_rank=False),
    )
    return read_clusters(cast(Context, context), {"train": Samples(tuple(paths), None, ())})


def test_labels_in_the_data_sets_order(tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.array([2, 0, -1]))
    clusters = read(tmp_path, ["t/a/0.png", "t/a/1.png", "t/b/0.png"], {"train": "t"})
    assert clusters.num_clusters == 3
    assert clusters.assignments["train"].tolist() == [2, 0, -1]


def test_folders_that_two_people_sort_differently_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.arange(3))
    paths = ["t/cat-big/0.png", "t/cat/0.png", "t/dog/0.png"]
    with pytest.raises(InvalidDataError, match=r"its image 0 is t/cat/0\.png, here it is t/cat-b"):
        read(tmp_path, paths, {"train": "t"})
    # A list has one order.
    listed = read(tmp_path, paths, {"format": "filelist", "train": "list.npy"})
    assert listed.assignments["train"].tolist() == [0, 1, 2]


def test_another_number_of_labels_is_explained(tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.arange(4))
    with pytest.raises(InvalidDataError, match=r"4 labels for 3 images.*with its sampler's dupl"):
        read(tmp_path, ["t/a/0.png", "t/a/1.png", "t/b/0.png"], {"train": "t"})
    (tmp_path / "labels.npy").unlink()
    with pytest.raises(MissingInputError):
        read(tmp_path, ["t/a/0.png"], {"train": "t"})


def test_gaps_are_kept_but_no_more_clusters_than_images(tmp_path: Path) -> None:
    paths = ["t/a/0.png", "t/a/1.png", "t/b/0.png"]
    np.save(tmp_path / "labels.npy", np.array([2, 0, 2]))  # nothing is in cluster 1
    assert read(tmp_path, paths, {"train": "t"}).num_clusters == 3
    np.save(tmp_path / "labels.npy", np.array([10**12, 0, 1]))
    with pytest.raises(InvalidDataError, match=r"the largest label is 1000000000000, .* 3 images"):
        read(tmp_path, paths, {"train": "t"})
