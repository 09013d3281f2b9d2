"""The images of a partition, with their labels, as the run file's `data` names them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from clusterfit.artifacts.dataset import Samples
from clusterfit.artifacts.files import read_array
from clusterfit.artifacts.layout import TRAIN
from clusterfit.artifacts.listing import list_images, read_path_list
from clusterfit.errors import InvalidDataError, MissingInputError


class Places(Protocol):
    """What of the run file's `data` says where images and labels are."""

    @property
    def format(self) -> str:
        """`folder` or `filelist`."""

    @property
    def train(self) -> str:
        """A folder or file list below the data root."""

    @property
    def val(self) -> str:
        """The same of the val partition; empty: there is none."""

    @property
    def train_labels(self) -> str:
        """For a file list: a .npy of labels; empty: unlabelled."""

    @property
    def val_labels(self) -> str:
        """The same of the val partition."""


def list_samples(
    data: Places, data_root: Path, partition: str, class_names: tuple[str, ...] = ()
) -> Samples:
    """Return a partition's images.

    `class_names` are those of the train partition: val's folders get the same numbers, and those
    that train does not have the numbers after them. Only who uses labels must mind.
    """
    relative = data.train if partition == TRAIN else data.val
    location = data_root / relative
    if data.format == "filelist":
        labels_path = data.train_labels if partition == TRAIN else data.val_labels
        return _list_file(location, data_root, labels_path, f"data.{partition}")
    paths = list_images(location, f"data.{partition}")
    full_paths = tuple(f"{relative}/{path}" if relative else path for path in paths)
    if not all("/" in path for path in paths):
        return Samples(full_paths, None, ())
    folders = [path.partition("/")[0] for path in paths]
    names = (*class_names, *sorted(set(folders) - set(class_names)))
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.array([numbers[folder] for folder in folders], np.int64)
    return Samples(full_paths, labels, names)


def _list_file(location: Path, data_root: Path, labels_path: str, where: str) -> Samples:
    paths = read_path_list(location, data_root, where)
    if not labels_path:
        return Samples(paths, None, ())
    if not (data_root / labels_path).exists():
        raise MissingInputError(
            f"{where}Labels: {data_root / labels_path} is not there; paths under data start at the "
            "data root"
        )
    labels = read_array(data_root / labels_path)
    if labels.dtype.kind not in "iu" or labels.ndim not in {1, 2} or labels.shape[1:] == (0,):
        raise InvalidDataError(
            f"{labels_path}: got {labels.dtype} {labels.shape}, want integers: one per path, or "
            "(paths, classes) of 1, 0 and -1"
        )
    if len(labels) != len(paths):
        raise InvalidDataError(
            f"{labels_path}: {len(labels)} labels for the {len(paths)} paths of {location.name}"
        )
    labels = np.asarray(labels, np.int64)  # first: there may be less room in it for uint64
    if labels.ndim == 1 and labels.min() < 0:
        raise InvalidDataError(f"{labels_path}: labels must be >= 0, got {labels.min()}")
    if labels.ndim == 2 and not np.isin(labels, (-1, 0, 1)).all():
        raise InvalidDataError(
            f"{labels_path}: {labels.shape} labels must be 1 (shown), 0 (not) or -1 (difficult), "
            f"got {labels.min()} to {labels.max()}"
        )
    return Samples(paths, labels, ())
