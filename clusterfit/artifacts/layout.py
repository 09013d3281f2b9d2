"""Names inside a run directory: the one place that knows where each file stands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

TRAIN: Final = "train"
VAL: Final = "val"
PARTITIONS: Final = (TRAIN, VAL)

MANIFEST_NAME: Final = "manifest.json"
DATASET_NAME: Final = "dataset.json"


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The folder of one run below the storage root."""

    storage_root: Path
    name: str

    @property
    def root(self) -> Path:
        """The run's folder."""
        return self.storage_root / self.name

    @property
    def run_file(self) -> Path:
        """Resolved config, package versions, who wrote it when."""
        return self.root / "run.json"

    @property
    def owner_file(self) -> Path:
        """Who writes here now."""
        return self.root / "owner.json"

    def sibling(self, name: str) -> RunDirectory:
        """Another run below the same storage root."""
        return RunDirectory(self.storage_root, name)

    def stage(self, stage: str) -> Path:
        """The folder of a stage's artifacts."""
        return self.root / stage

    def attempts_file(self, stage: str) -> Path:
        """How often the current submission has tried a stage, and how far each try came."""
        return self.root / "attempts" / f"{stage}.json"

    def overwrite_file(self, stage: str) -> Path:
        """The last `--overwrite` that a stage has obeyed."""
        return self.root / "attempts" / f"{stage}.overwrite.json"

    def rank_log(self, stage: str, attempt: int, rank: int) -> Path:
        """The copy of one rank's lines; attempts count from 1."""
        return self.root / "logs" / stage / f"attempt-{attempt}" / f"rank-{rank:05d}.log"

    @property
    def listings(self) -> Path:
        """The folder of what fixes the order of each partition."""
        return self.root / "data"

    def data(self, partition: str) -> Path:
        """The folder that fixes a partition's order: samples.txt, labels.npy, dataset.json."""
        return self.listings / partition

    def features(self, layer: str, partition: str) -> Path:
        """The folder of a partition's feature parts."""
        return self.root / "extract" / layer / partition

    def backbone(self, stage: str) -> Path:
        """The weights that pretext or train has written, under torchvision's key names."""
        return self.root / stage / "model.safetensors"

    def centroids(self) -> Path:
        """(K, D) float32."""
        return self.root / "cluster" / "centroids.npy"

    def assignments(self, partition: str) -> Path:
        """(N,) int64 in the data set's order, -1 where an image could not be read."""
        return self.root / "cluster" / partition / "assignments.npy"

    def distances_sq(self, partition: str) -> Path:
        """(N,) float32, squared L2 distance to the own centroid, NaN where unassigned."""
        return self.root / "cluster" / partition / "distances_sq.npy"

    def results(self) -> Path:
        """What evaluate found."""
        return self.root / "evaluate" / "results.json"

    def judged(self, number: int) -> Path:
        """What evaluate found of one backbone, until it has judged all."""
        return self.root / "evaluate" / "judged" / f"{number}.json"


def list_runs(storage_root: Path) -> list[RunDirectory]:
    """Return the runs below a storage root, by name."""
    return [
        RunDirectory(storage_root, run_file.parent.name)
        for run_file in sorted(storage_root.glob("*/run.json"))
    ]
