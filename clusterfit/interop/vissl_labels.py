"""Labels as VISSL's `disk_filelist` keeps them: images.npy with paths, labels.npy beside it.

VISSL's own cluster step wrote labels in the order of its feature chunks, with the sampler's padding
in them, and read them back as if they were in the order of images.npy. A file of another length
than the data set is therefore refused with that reason: cutting it would not make it right.

N: images of the data set, K: num_clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clusterfit.artifacts.dataset import read_samples
from clusterfit.artifacts.files import read_array, read_json, write_array
from clusterfit.artifacts.layout import RunDirectory
from clusterfit.artifacts.manifest import check_file, read_manifest
from clusterfit.errors import InvalidDataError, MissingInputError


@dataclass(frozen=True, slots=True)
class VisslLabels:
    """Somebody else's assignments, checked."""

    assignments: np.ndarray  # (N,) int64, -1: unassigned
    num_clusters: int
    """K: the largest label and one, whether or not each is used."""
    num_unassigned: int
    num_empty_clusters: int
    """Labels below K that no image has; a head gets outputs for them that nothing trains."""


def read_vissl_labels(path: Path, num_samples: int) -> VisslLabels:
    """Return a labels.npy that can be trained on.

    Args:
        path: An array of whole numbers, (N,) or (N, 1). -1 stands for an image without a label.
        num_samples: Images of the data set, N.

    Raises:
        MissingInputError: there is no such file.
        InvalidDataError: it is no array of whole numbers, has another length, has labels below
            -1, none at all, or more of them than images.
    """
    labels = read_array(path)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iuf":
        raise InvalidDataError(
            f"{path}: {labels.dtype} of shape {labels.shape}, want one whole number an image, (N,)"
        )
    if len(labels) != num_samples:
        raise InvalidDataError(
            f"{path}: {len(labels)} labels for {num_samples} images. VISSL's cluster step writes "
            "labels in the order of its feature files, with its sampler's duplicates, not in the "
            "data set's: cluster again from its features, which know their images"
        )
    whole = np.isfinite(labels) & (np.floor(labels) == labels)
    if not whole.all():
        row = int(np.flatnonzero(~whole)[0])
        raise InvalidDataError(f"{path}: label {labels[row]} of image {row} is no whole number")
    assignments = labels.astype(np.int64)
    if assignments.min(initial=0) < -1:
        row = int(assignments.argmin())
        raise InvalidDataError(
            f"{path}: label {assignments[row]} of image {row}; want 0 or more, or -1 for none"
        )
    used = np.unique(assignments[assignments >= 0])
    if not len(used):
        raise InvalidDataError(f"{path}: no image has a label")
    num_clusters = int(used[-1]) + 1
    if num_clusters > num_samples:
        raise InvalidDataError(
            f"{path}: the largest label is {used[-1]}, so there would be more clusters than the "
            f"{num_samples} images; number them from 0 without such gaps"
        )
    return VisslLabels(
        assignments=assignments,
        num_clusters=num_clusters,
        num_unassigned=int((assignments < 0).sum()),
        num_empty_clusters=num_clusters - len(used),
    )


def write_vissl_labels(
    folder: Path, image_paths: Sequence[str], assignments: np.ndarray
) -> tuple[Path, Path]:
    """Write images.npy and labels.npy, row for row; images without an assignment are left out.

    Args:
        folder: Where to; made if need be.
        image_paths: One path an image, in the data set's order, as VISSL shall open it.
        assignments: (N,) int64, -1: unassigned.

    Returns:
        The two files, images first.

    Raises:
        InvalidDataError: the two do not have the same length, or nothing is assigned.
        WriteError: the folder cannot be written.
    """
    if len(image_paths) != len(assignments):
        raise InvalidDataError(
            f"{len(assignments)} assignments for {len(image_paths)} images: they are of different "
            "data sets"
        )
    kept = np.flatnonzero(assignments >= 0).tolist()
    if not kept:
        raise InvalidDataError("no image has an assignment, so there is nothing to export")
    images, labels = folder / "images.npy", folder / "labels.npy"
    write_array(images, np.array([image_paths[row] for row in kept], dtype=np.str_))
    write_array(labels, assignments[kept].astype(np.int64))
    return images, labels


def export_run_labels(
    run: RunDirectory, partition: str, folder: Path, data_root: Path | None = None
) -> tuple[Path, Path]:
    """Write a finished run's assignments as images.npy and labels.npy.

    Args:
        run: The run whose cluster stage has finished.
        partition: `train` or `val`.
        folder: Where to.
        data_root: What VISSL finds the images below; None: paths stay relative.

    Returns:
        The two files, images first.

    Raises:
        MissingInputError: there are no assignments, or nobody knows of which images.
        InvalidDataError: the assignments are of other images than the run lists.
        WriteError: the folder cannot be written.
    """
    manifest = read_manifest(run.stage("cluster"))
    found = manifest.results["partitions"].get(partition)
    if found is None:
        raise MissingInputError(f"{run.stage('cluster')}: has no assignments of {partition}")
    samples = read_samples(_find_listing(run, partition))
    if samples.fingerprint != found["data_fingerprint"]:
        raise InvalidDataError(
            f"{run.assignments(partition)}: of other images than the run lists in "
            f"{run.data(partition)}"
        )
    assignments = check_file(run.stage("cluster"), manifest, run.assignments(partition))
    paths = [str(data_root / path) if data_root else path for path in samples.paths]
    return write_vissl_labels(folder, paths, np.array(read_array(assignments)))


def _find_listing(run: RunDirectory, partition: str) -> Path:
    """Return where the images are listed: in the run, or in that whose features it clustered."""
    if not run.data(partition).is_dir():
        inputs = read_json(run.run_file).get("config", {}).get("inputs", {})
        if inputs.get("features"):
            return run.sibling(inputs["features"]).data(partition)
    return run.data(partition)
