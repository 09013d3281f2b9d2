"""Does every file of a run still hold what its manifest says?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clusterfit.artifacts.dataset import read_samples
from clusterfit.artifacts.files import compute_sha256
from clusterfit.artifacts.layout import DATASET_NAME, MANIFEST_NAME, RunDirectory
from clusterfit.artifacts.manifest import Manifest, find_size_faults, read_manifest
from clusterfit.artifacts.outage import check_storage
from clusterfit.errors import InvalidDataError, MissingInputError


@dataclass(frozen=True, slots=True)
class Artifact:
    """One finished artifact of a run: a folder with a manifest."""

    folder: Path
    name: str
    """Relative to the run directory: `pretext`, `extract/res5avg/train`."""
    manifest: Manifest

    @property
    def size_bytes(self) -> int:
        """Of all files that the manifest lists."""
        return sum(record.size for record in self.manifest.files)


def list_artifacts(run: RunDirectory) -> list[Artifact]:
    """Return the finished artifacts of a run, by name.

    Raises:
        InvalidDataError: when a manifest is damaged, or a folder cannot be listed.
        RetryableError: when the storage failed.
    """
    return [
        Artifact(
            path.parent, path.parent.relative_to(run.root).as_posix(), read_manifest(path.parent)
        )
        for path in _find_files(run.root, MANIFEST_NAME)
    ]


def find_faults(run: RunDirectory) -> Iterator[str]:
    """Yield one line for each file of a run that is missing, truncated or changed.

    Reads every byte that a manifest or a listing of images vouches for.

    Raises:
        InvalidDataError: when a folder cannot be listed.
        RetryableError: when the storage failed: nothing is known of what it holds.
    """
    for path in _find_files(run.listings, DATASET_NAME):
        try:
            read_samples(path.parent)
        except (InvalidDataError, MissingInputError) as error:
            yield from error.faults
    for path in _find_files(run.root, MANIFEST_NAME):
        folder = path.parent
        try:
            manifest = read_manifest(folder)
        except (InvalidDataError, MissingInputError) as error:
            yield from error.faults
            continue
        by_size = list(find_size_faults(folder, manifest))
        yield from by_size
        for record in manifest.files:
            file = folder / record.path
            if any(fault.startswith(f"{file}:") for fault in by_size):
                continue
            try:
                is_as_written = compute_sha256(file) == record.sha256
            except OSError as error:
                check_storage(file, error)
                yield f"{file}: {error.strerror}"
                continue
            if not is_as_written:
                yield f"{file}: content differs from the manifest's sha256"


def _find_files(root: Path, name: str) -> list[Path]:
    """Return what has a name, at any depth, sorted; a glob passes over what it may not list."""

    def refuse(error: OSError) -> None:
        if isinstance(error, FileNotFoundError):
            return
        folder = Path(error.filename)
        check_storage(folder, error)
        raise InvalidDataError(f"{folder}: {error.strerror}") from error

    return sorted(
        Path(folder) / name
        for folder, folders, files in os.walk(root, onerror=refuse)
        if name in folders + files
    )
