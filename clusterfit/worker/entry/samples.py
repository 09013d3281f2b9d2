"""Fixing the order of a run's images, once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clusterfit.artifacts.dataset import Samples, read_fingerprint, read_samples, write_samples
from clusterfit.artifacts.files import Guard
from clusterfit.artifacts.layout import TRAIN
from clusterfit.artifacts.partition import list_samples
from clusterfit.errors import InvalidDataError, MissingInputError
from clusterfit.worker.arguments import Assignment
from clusterfit.worker.identity import list_partitions
from clusterfit.worker.limits import check_listed
from clusterfit.worker.log import Log


def find_samples(assignment: Assignment, world_size: int) -> dict[str, Samples]:
    """Return each partition's images, as they are now.

    Raises:
        MissingInputError: when a folder, list or label file is not there, or holds no images.
        ConfigError, InvalidDataError: when they are not what a stage of this submission needs.
    """
    listed: dict[str, Samples] = {}
    for partition in list_partitions(assignment.config):
        class_names = listed[TRAIN].class_names if listed else ()  # val's labels are train's
        listed[partition] = list_samples(
            assignment.config.data, assignment.data_root, partition, class_names
        )
    check_listed(assignment.config, listed, assignment.stage, world_size)
    return listed


def fix_samples(
    assignment: Assignment, found: Mapping[str, Samples], log: Log, guard: Guard
) -> None:
    """Fix each partition's order in the run directory, or hold it against the fixed one.

    Raises:
        InvalidDataError: when the images are not those that the run began with.
    """
    for partition, samples in found.items():
        _fix_partition(assignment.run.data(partition), partition, samples, log, guard)


def _fix_partition(folder: Path, partition: str, samples: Samples, log: Log, guard: Guard) -> None:
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
        return
    if fixed != samples.fingerprint:
        raise InvalidDataError(
            f"data.{partition}: {_compare(read_samples(folder), samples)}; restore the images, "
            "give the run another name, or start over with --overwrite"
        )


def _compare(fixed: Samples, now: Samples) -> str:
    if len(fixed.paths) != len(now.paths):
        return f"{len(now.paths)} images now, {len(fixed.paths)} when the run began"
    for old, new in zip(fixed.paths, now.paths, strict=True):
        if old != new:
            return f"{new} now stands where {old} stood when the run began"
    return "the labels are not those that the run began with"
