"""Listing the images of a partition in an order that every machine agrees on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clusterfit.artifacts.dataset import Samples, read_fingerprint, read_samples, write_samples
from clusterfit.artifacts.files import Guard, read_array
from clusterfit.artifacts.layout import TRAIN
from clusterfit.artifacts.listing import list_images, read_path_list
from clusterfit.config.tree import Data
from clusterfit.errors import InvalidDataError, MissingInputError
from clusterfit.worker.arguments import Assignment
from clusterfit.worker.identity import list_partitions
from clusterfit.worker.log import Log


def fix_samples(assignment: Assignment, log: Log, guard: Guard) -> None:
    """List each partition and fix its order in the run directory, or hold it against the fixed one.

    Raises:
        MissingInputError: when a folder, list or label file is not there, or holds no images.
        InvalidDataError: when the images are not those that the run began with.
    """
    class_names: tuple[str, ...] = ()
    for partition in list_partitions(assignment.config):
        samples = list_samples(assignment.config.data, assignment.data_root, partition, class_names)
        class_names = samples.class_names
        folder = assignment.run.data(partition)
        try:
            fixed = read_fingerprint(folder)
        except MissingInputError:
            write_samples(folder, samples, guard)
            log.info(
                "listed images",
                partition=partition,
                num_samples=len(samples.paths),
                labels="yes" if samples.labels is not None else "none",
            )
            continue
        if fixed != samples.fingerprint:
            raise InvalidDataError(
                f"data.{partition}: {_compare(read_samples(folder), samples)}; restore the images, "
                "give the run another name, or start over with --overwrite"
            )


def list_samples(
    data: Data, data_root: Path, partition: str, class_names: tuple[str, ...] = ()
) -> Samples:
    """Return a partition's images.

    `class_names` are those of the train partition: val's folders get the same numbers.
    """
    relative = data.train if partition == TRAIN else data.val
    location = data_root / relative
    if data.format == "filelist":
        labels_path = data.train_labels if partition == TRAIN else data.val_labels
        return _list_file(location, data_root, labels_path)
    paths = list_images(location, f"data.{partition}")
    full_paths = tuple(f"{relative}/{path}" if relative else path for path in paths)
    if not all("/" in path for path in paths):
        return Samples(full_paths, None, ())
    folders = [path.partition("/")[0] for path in paths]
    names = class_names or tuple(sorted(set(folders)))
    if unknown := sorted(set(folders) - set(names)):
        raise InvalidDataError(
            f"data.{partition}: class folders that {TRAIN} does not have: {', '.join(unknown[:5])}"
        )
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.array([numbers[folder] for folder in folders], np.int64)
    return Samples(full_paths, labels, names)


def _list_file(location: Path, data_root: Path, labels_path: str) -> Samples:
    paths = read_path_list(location)
    if not labels_path:
        return Samples(paths, None, ())
    labels = read_array(data_root / labels_path)
    if labels.dtype.kind not in "iu" or labels.ndim not in {1, 2}:
        raise InvalidDataError(
            f"{labels_path}: got {labels.dtype} {labels.shape}, want integers: one per path, or "
            "(paths, classes) of 1, 0 and -1"
        )
    if len(labels) != len(paths):
        raise InvalidDataError(
            f"{labels_path}: {len(labels)} labels for the {len(paths)} paths of {location.name}"
        )
    if labels.ndim == 1 and labels.min() < 0:
        raise InvalidDataError(f"{labels_path}: labels must be >= 0, got {labels.min()}")
    if labels.ndim == 2 and not np.isin(labels, (-1, 0, 1)).all():
        raise InvalidDataError(
            f"{labels_path}: {labels.shape} labels must be 1 (shown), 0 (not) or -1 (difficult), "
            f"got {labels.min()} to {labels.max()}"
        )
    return Samples(paths, np.asarray(labels, np.int64), ())


def _compare(fixed: Samples, now: Samples) -> str:
    if len(fixed.paths) != len(now.paths):
        return f"{len(now.paths)} images now, {len(fixed.paths)} when the run began"
    for old, new in zip(fixed.paths, now.paths, strict=True):
        if old != new:
            return f"{new} now stands where {old} stood when the run began"
    return "the labels are not those that the run began with"
