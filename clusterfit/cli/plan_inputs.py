"""What of a run's inputs is on this machine, so that a plan need not be told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clusterfit.config.forecast.figures import Known
from clusterfit.errors import ConfigError

if TYPE_CHECKING:
    from clusterfit.config.tree import RunFile


class ImagesHere:
    """The images of a run."""

    def __init__(self, run: RunFile, data_root: Path) -> None:
        """Look at nothing yet."""
        self._data = run.data
        self._data_root = data_root
        self.num_classes = 0
        """Of the train partition's labels; 0: it was not looked at, or has none."""

    def count(self, partition: str, option: str) -> int:
        """Return how many there are.

        Args:
            partition: train or val.
            option: How to give their number instead.

        Raises:
            ConfigError: they are not here.
        """
        from clusterfit.artifacts.partition import list_samples

        location = self._data_root / getattr(self._data, partition)
        if not location.exists():
            raise ConfigError(
                f"data.{partition}: {location} is not here; give the number of its images "
                f"({option} N), or the folder that paths under data start at (--data-root DIR)"
            )
        samples = list_samples(self._data, self._data_root, partition)
        if partition == "train" and samples.labels is not None:
            is_single = samples.labels.ndim == 1
            self.num_classes = int(
                samples.labels.max() + 1 if is_single else samples.labels.shape[1]
            )
        return len(samples.paths)


def look_up(run: RunFile, storage_root: Path, num_images: int) -> Known:
    """Return what is known of other runs' artifacts, as far as they are below the storage root.

    Raises:
        InvalidDataError: the labels of `inputs.assignments` are no clusters of so many images.
    """
    assignments = storage_root / run.inputs.assignments
    num_clusters, num_assigned = 0, 0
    if "train" in run.stages and run.inputs.assignments and assignments.exists():
        from clusterfit.interop.vissl_labels import read_vissl_labels

        labels = read_vissl_labels(assignments, num_images)
        num_clusters, num_assigned = labels.num_clusters, num_images - labels.num_unassigned
    return Known(
        num_clusters=num_clusters,
        num_assigned=num_assigned,
        feature_dim=_find_feature_dim(run, storage_root),
    )


def _find_feature_dim(run: RunFile, storage_root: Path) -> int:
    """Return D of `inputs.features`; 0: they are not here."""
    if "cluster" not in run.stages or not run.inputs.features:
        return 0
    from clusterfit.artifacts.layout import TRAIN, RunDirectory
    from clusterfit.artifacts.manifest import find_manifest

    folder = RunDirectory(storage_root, run.inputs.features).features(run.extract.layer, TRAIN)
    manifest = find_manifest(folder)
    return manifest.results["feature_dim"] if manifest else 0
