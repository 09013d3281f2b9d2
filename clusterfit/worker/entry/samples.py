"""Fixing the order of a run's images, once."""

from __future__ import annotations

from clusterfit.artifacts.dataset import Samples, read_fingerprint, read_samples, write_samples
from clusterfit.artifacts.files import Guard
from clusterfit.artifacts.layout import TRAIN
from clusterfit.artifacts.partition import list_samples
from clusterfit.config.tree import Algorithm
from clusterfit.errors import InvalidDataError, MissingInputError
from clusterfit.worker.arguments import Assignment
from clusterfit.worker.identity import list_partitions
from clusterfit.worker.limits import check_num_clusters
from clusterfit.worker.log import Log


def fix_samples(assignment: Assignment, log: Log, guard: Guard) -> None:
    """List each partition and fix its order in the run directory, or hold it against the fixed one.

    Raises:
        MissingInputError: when a folder, list or label file is not there, or holds no images.
        InvalidDataError: when the images are not those that the run began with, or fewer than the
            clusters that a later stage is to find.
    """
    class_names: tuple[str, ...] = ()
    for partition in list_partitions(assignment.config):
        samples = list_samples(assignment.config.data, assignment.data_root, partition, class_names)
        class_names = samples.class_names
        if partition == TRAIN and _will_cluster(assignment.config):
            check_num_clusters(assignment.config, len(samples.paths))  # before hours of other work
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


def _will_cluster(config: Algorithm) -> bool:
    return "cluster" in config.stages and not config.inputs.features


def _compare(fixed: Samples, now: Samples) -> str:
    if len(fixed.paths) != len(now.paths):
        return f"{len(now.paths)} images now, {len(fixed.paths)} when the run began"
    for old, new in zip(fixed.paths, now.paths, strict=True):
        if old != new:
            return f"{new} now stands where {old} stood when the run began"
    return "the labels are not those that the run began with"
