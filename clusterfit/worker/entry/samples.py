"""Listing the images of a partition in an order that every machine agrees on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from clusterfit.artifacts.dataset import Samples, read_fingerprint, read_samples, write_samples
from clusterfit.artifacts.files import Guard, read_array
from clusterfit.artifacts.layout import TRAIN
from clusterfit.config.tree import Data
from clusterfit.errors import InvalidDataError, MissingInputError, RetryableError
from clusterfit.worker.arguments import Assignment
from clusterfit.worker.data.outage import is_outage
from clusterfit.worker.identity import list_partitions
from clusterfit.worker.log import Log

IMAGE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif"})
"""What torchvision decodes, by the file's name."""

_UNFIT_FOR_A_LINE: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""samples.txt has one path a line: a name that cannot stand in it would shift all others."""


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
    if not location.is_dir():
        raise MissingInputError(
            f"data.{partition}: {location} is not a folder; paths under data start at the data root"
        )
    paths = sorted(_walk(location, f"data.{partition}"))
    if not paths:
        raise MissingInputError(
            f"data.{partition}: no image below {location}; wanted are files named "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    _check_names(paths, f"data.{partition}")
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


def _walk(folder: Path, where: str) -> Iterator[str]:
    """Yield image paths relative to `folder`; hidden files and folders are left out.

    Links are followed, but not back to a folder that they are in.
    """

    def walk(path: str, prefix: str, inside: tuple[tuple[int, int], ...]) -> Iterator[str]:
        stat = os.stat(path)  # noqa: PTH116 - a Path for each of a million entries costs minutes
        identity = (stat.st_dev, stat.st_ino)
        if identity in inside:
            raise InvalidDataError(
                f"{where}: {path} is a link back to a folder that it is in; remove the link"
            )
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    yield from walk(entry.path, f"{prefix}{entry.name}/", (*inside, identity))
                elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122
                    yield prefix + entry.name

    try:
        yield from walk(str(folder), "", ())
    except OSError as error:
        fault = f"{where}: cannot list {error.filename or folder}: {error.strerror}"
        if is_outage(error):
            raise RetryableError(fault) from error
        raise MissingInputError(f"{fault}; mend it, or move it out of {folder}") from error


def _list_file(location: Path, data_root: Path, labels_path: str) -> Samples:
    if location.suffix == ".npy":
        names = read_array(location)
        if names.dtype.kind not in "US" or names.ndim != 1:
            raise InvalidDataError(
                f"{location}: got {names.dtype} {names.shape}, want one axis of text (dtype U or S)"
            )
        try:
            paths = tuple(
                (np.char.decode(names, "utf-8") if names.dtype.kind == "S" else names).tolist()
            )
        except UnicodeDecodeError as error:
            raise InvalidDataError(f"{location}: not UTF-8 text") from error
        if "" in paths:
            raise InvalidDataError(f"{location}: path {paths.index('')} is empty")
    else:
        try:
            text = location.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise MissingInputError(f"{location}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InvalidDataError(f"{location}: not UTF-8 text") from error
        paths = tuple(line.strip() for line in text.split("\n") if line.strip())
    if not paths:
        raise MissingInputError(f"{location}: lists no image")
    _check_names(paths, str(location))
    for path in paths:
        if path.startswith("/") or ".." in Path(path).parts:
            raise InvalidDataError(f"{location}: {path!r} leaves the data root")
    if not labels_path:
        return Samples(paths, None, ())
    labels = read_array(data_root / labels_path)
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise InvalidDataError(
            f"{labels_path}: got {labels.dtype} {labels.shape}, want one axis of integers"
        )
    if len(labels) != len(paths):
        raise InvalidDataError(
            f"{labels_path}: {len(labels)} labels for the {len(paths)} paths of {location.name}"
        )
    if len(labels) and labels.min() < 0:
        raise InvalidDataError(f"{labels_path}: labels must be >= 0, got {labels.min()}")
    return Samples(paths, np.asarray(labels, np.int64), ())


def _check_names(paths: tuple[str, ...] | list[str], where: str) -> None:
    for path in paths:
        if _UNFIT_FOR_A_LINE.search(path):
            raise InvalidDataError(
                f"{where}: a file name with control characters, or not UTF-8: {path!r}; rename it"
            )


def _compare(fixed: Samples, now: Samples) -> str:
    if len(fixed.paths) != len(now.paths):
        return f"{len(now.paths)} images now, {len(fixed.paths)} when the run began"
    for old, new in zip(fixed.paths, now.paths, strict=True):
        if old != new:
            return f"{new} now stands where {old} stood when the run began"
    return "the labels are not those that the run began with"
