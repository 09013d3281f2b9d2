"""The order of a partition's images, fixed once for a run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clusterfit.artifacts.files import (
    Guard,
    read_array,
    read_json,
    remove_files,
    write_array,
    write_file,
    write_json,
)
from clusterfit.artifacts.layout import DATASET_NAME
from clusterfit.artifacts.outage import check_storage
from clusterfit.errors import InvalidDataError, MissingInputError


@dataclass(frozen=True, slots=True)
class Samples:
    """The images of one partition, N of them, in the data set's order."""

    paths: tuple[str, ...]
    """Relative to the data root."""
    labels: np.ndarray | None
    """(N,) int64 ground truth, (N, C) of 1, 0 and -1 where an image may show several of C classes,
    or None where there is none."""
    class_names: tuple[str, ...]
    """By label; empty where labels are bare numbers or absent."""

    @property
    def fingerprint(self) -> str:
        """sha256 over paths and labels, in order."""
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(path.encode() + b"\n")
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels, np.int64).tobytes())
        return digest.hexdigest()


def write_samples(folder: Path, samples: Samples, guard: Guard | None = None) -> None:
    """Write samples.txt, labels.npy where there are labels, and, last, dataset.json."""
    remove_files([folder / DATASET_NAME])
    lines = "".join(f"{path}\n" for path in samples.paths)
    write_file(folder / "samples.txt", lines.encode(), guard)
    if samples.labels is None:
        remove_files([folder / "labels.npy"])
    else:
        write_array(folder / "labels.npy", samples.labels, guard)
    write_json(folder / DATASET_NAME, _describe(samples), guard)


def _describe(samples: Samples) -> dict[str, Any]:
    """Return what dataset.json says."""
    return {
        "num_samples": len(samples.paths),
        "class_names": list(samples.class_names),
        "labelled": samples.labels is not None,
        "fingerprint": samples.fingerprint,
    }


def read_samples(folder: Path) -> Samples:
    """Return a partition's samples as they were fixed.

    Raises:
        MissingInputError: when the partition was never listed.
        InvalidDataError: when the files do not agree with dataset.json.
        RetryableError: when the storage failed.
    """
    record = read_json(folder / DATASET_NAME)
    try:
        # Bytes, because reading as text would translate line ends that belong to a name.
        text = (folder / "samples.txt").read_bytes().decode()
        labels = np.array(read_array(folder / "labels.npy")) if record["labelled"] else None
        samples = Samples(tuple(text.split("\n")[:-1]), labels, tuple(record["class_names"]))
        is_unchanged = record == _describe(samples) and (
            labels is None or (labels.dtype == np.int64 and len(labels) == len(samples.paths))
        )
    except OSError as error:
        check_storage(folder, error)
        is_unchanged = False
    except (UnicodeDecodeError, KeyError, TypeError, MissingInputError):
        is_unchanged = False
    if not is_unchanged:
        raise InvalidDataError(
            f"{folder}: samples.txt, labels.npy or dataset.json was changed after the run began; "
            "restore it, or give the run another name"
        )
    return samples


def read_fingerprint(folder: Path) -> str:
    """Return a partition's fingerprint without reading its samples.

    Raises:
        MissingInputError: when the partition was never listed.
    """
    record = read_json(folder / DATASET_NAME)
    return str(record.get("fingerprint"))
