"""Labels go to VISSL's pair of files and come back, and labels that lie are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clusterfit.errors import InvalidDataError, MissingInputError
from clusterfit.interop.vissl_labels import read_vissl_labels, write_vissl_labels


def save(path: Path, values: object) -> Path:
    np.save(path / "labels.npy", np.asarray(values))
    return path / "labels.npy"


def refusal_of(path: Path, num_samples: int) -> str:
    with pytest.raises(InvalidDataError) as caught:
        read_vissl_labels(path, num_samples)
    return str(caught.value)


def test_there_and_back(tmp_path: Path) -> None:
    """Read with numpy alone, as VISSL's disk_filelist does, and by our own reader."""
    paths = [f"/data/größe {row}.jpg" for row in range(6)]
    assignments = np.array([3, 0, -1, 2, 0, -1])
    images, labels = write_vissl_labels(tmp_path / "new", paths, assignments)
    theirs = dict(zip(np.load(images).tolist(), np.load(labels).tolist(), strict=True))
    assert theirs == {paths[0]: 3, paths[1]: 0, paths[3]: 2, paths[4]: 0}
    assert np.load(labels).dtype == np.int64
    found = read_vissl_labels(labels, 4)
    assert found.assignments.tolist() == [3, 0, 2, 0]
    assert (found.num_clusters, found.num_unassigned, found.num_empty_clusters) == (4, 0, 1)


@pytest.mark.parametrize(
    "values",
    [
        [2, 0, -1],
        np.array([[2], [0], [-1]], np.int32),
        np.array([2.0, 0.0, -1.0], np.float32),
    ],
)
def test_shapes_and_types_of_whole_numbers(tmp_path: Path, values: object) -> None:
    found = read_vissl_labels(save(tmp_path, values), 3)
    assert found.assignments.tolist() == [2, 0, -1]
    assert found.assignments.dtype == np.int64
    assert (found.num_clusters, found.num_unassigned, found.num_empty_clusters) == (3, 1, 1)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0, 1.5, 2], "label 1.5 of image 1 is no whole number"),
        ([0, 1, np.nan], "label nan of image 2 is no whole number"),
        ([0, 1, -2], "label -2 of image 2"),
        ([-1, -1, -1], "no image has a label"),
        ([[0, 1], [1, 0], [0, 0]], "of shape (3, 2), want one whole number an image"),
        (["a", "b", "c"], "want one whole number an image"),
        ([0, 1, np.inf], "label inf of image 2"),
        ([0, 1], "2 labels for 3 images. VISSL's cluster step writes labels in the order of its"),
        ([0, 1, 2, 0], "4 labels for 3 images"),
    ],
)
def test_labels_that_cannot_be_trained_on(tmp_path: Path, values: object, said: str) -> None:
    assert said in refusal_of(save(tmp_path, values), 3)


def test_one_huge_label_costs_no_memory(tmp_path: Path) -> None:
    fault = refusal_of(save(tmp_path, [0, 10**12]), 2)
    assert "the largest label is 1000000000000, so there would be more clusters than" in fault
    assert "number them from 0 without such gaps" in fault


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        read_vissl_labels(tmp_path / "labels.npy", 3)
    np.save(tmp_path / "objects.npy", np.array([{}, 1, 2], dtype=object), allow_pickle=True)
    assert "not a plain .npy array" in refusal_of(tmp_path / "objects.npy", 3)


def test_exports_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match="2 assignments for 1 images"):
        write_vissl_labels(tmp_path, ["a"], np.array([0, 1]))
    with pytest.raises(InvalidDataError, match="nothing to export"):
        write_vissl_labels(tmp_path, ["a"], np.array([-1]))
    assert list(tmp_path.iterdir()) == []
