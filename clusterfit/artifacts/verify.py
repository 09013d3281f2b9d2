"""Does every file of a run still hold what its manifest says?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clusterfit.artifacts.dataset import read_samples
from clusterfit.artifacts.files import compute_sha256
from clusterfit.artifacts.layout import DATASET_NAME, MANIFEST_NAME, RunDirectory
from clusterfit.artifacts.manifest import Manifest, find_size_faults, read_manifest
from clusterfit.errors import ClusterfitError


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
        InvalidDataError: when a manifest is damaged.
    """
    return [
        Artifact(
            path.parent, path.parent.relative_to(run.root).as_posix(), read_manifest(path.parent)
        )
        for path in sorted(run.root.rglob(MANIFEST_NAME))
    ]


def find_faults(run: RunDirectory) -> Iterator[str]:
    """Yield one line for each file of a run that is missing, truncated or changed.

    Reads every byte that a manifest or a listing of images vouches for.
    """
    for path in sorted(run.listings.glob(f"*/{DATASET_NAME}")):
        try:
            read_samples(path.parent)
        except ClusterfitError as error:
            yield from error.faults
    for path in sorted(run.root.rglob(MANIFEST_NAME)):
        folder = path.parent
        try:
            manifest = read_manifest(folder)
        except ClusterfitError as error:
            yield from error.faults
            continue
        by_size = list(find_size_faults(folder, manifest))
        yield from by_size
        for record in manifest.files:
            file = folder / record.path
            if any(fault.startswith(f"{file}:") for fault in by_size):
                continue
            if compute_sha256(file) != record.sha256:
                yield f"{file}: content differs from the manifest's sha256"
