"""The clusters that train predicts: this run's own, or somebody's that the run file gives.

N: images of a partition, K: num_clusters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from clusterfit.artifacts.dataset import Samples
from clusterfit.artifacts.files import read_array
from clusterfit.artifacts.layout import TRAIN
from clusterfit.artifacts.manifest import Manifest, check_file
from clusterfit.errors import InvalidDataError
from clusterfit.interop.vissl_labels import read_vissl_labels
from clusterfit.interop.vissl_order import list_in_vissl_order
from clusterfit.worker.context import Context
from clusterfit.worker.identity import require_manifest


@dataclass(frozen=True, slots=True)
class Clusters:
    """What there is to predict."""

    num_clusters: int
    """K."""
    assignments: dict[str, torch.Tensor]
    """By partition, (N,) int64, -1: unassigned. Train is always there."""


def read_clusters(context: Context, samples: Mapping[str, Samples]) -> Clusters:
    """Return the clusters of these images.

    Raises:
        MissingInputError, RetryableError: they are not there (yet).
        InvalidDataError: they are not of these images, or no clusters.
    """
    if context.config.inputs.assignments:
        return _read_given(context, samples[TRAIN])
    manifest = require_manifest(context.assignment, "cluster", context.run.stage("cluster"))
    assignments = {
        partition: _read_own(context, manifest, partition, samples[partition])
        for partition in samples
    }
    return Clusters(manifest.results["num_clusters"], assignments)


def _read_given(context: Context, samples: Samples) -> Clusters:
    data, path = context.config.data, context.run.storage_root / context.config.inputs.assignments
    labels = read_vissl_labels(path, len(samples.paths))
    order = list_in_vissl_order(samples.paths, data.train)
    if data.format == "folder" and (np.diff(order) < 0).any():
        first = int(np.flatnonzero(order != np.arange(len(order)))[0])
        raise InvalidDataError(
            f"{path}: whose row is whose? ImageFolder, and so VISSL, sorts this folder otherwise "
            f"than clusterfit does: its image {first} is {samples.paths[order[first]]}, here it is "
            f"{samples.paths[first]}. List the images as the labels were made, with data.format: "
            "filelist"
        )
    if context.env.is_main_rank:
        context.log.info(
            "given assignments",
            path=path,
            num_clusters=labels.num_clusters,
            num_empty=labels.num_empty_clusters,
            num_unassigned=labels.num_unassigned,
        )
    return Clusters(labels.num_clusters, {TRAIN: torch.from_numpy(labels.assignments)})


def _read_own(
    context: Context, clusters: Manifest, partition: str, samples: Samples
) -> torch.Tensor:
    path = context.run.assignments(partition)
    check_file(context.run.stage("cluster"), clusters, path)
    assignments = np.array(read_array(path))
    clustered = clusters.results["partitions"].get(partition, {}).get("data_fingerprint")
    if clustered != samples.fingerprint or len(assignments) != len(samples.paths):
        raise InvalidDataError(
            f"{path}: the {len(assignments)} assignments belong to other images than the "
            f"{len(samples.paths)} of data.{partition}; run cluster on this run's own features"
        )
    num_clusters = clusters.results["num_clusters"]
    if assignments.min() < -1 or assignments.max() >= num_clusters:
        raise InvalidDataError(f"{path}: want clusters 0..{num_clusters - 1}, or -1 for none")
    return torch.from_numpy(assignments)
