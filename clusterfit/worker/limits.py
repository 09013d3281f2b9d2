"""What a run file asks of its images and their labels, found out as soon as they are listed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from clusterfit.artifacts.dataset import Samples
from clusterfit.artifacts.layout import TRAIN, VAL
from clusterfit.config.schedule import Schedule
from clusterfit.config.sections.inputs import Data
from clusterfit.config.sections.training import Optimization
from clusterfit.config.stages import StageName
from clusterfit.config.tree import Algorithm
from clusterfit.errors import InvalidDataError

_MOST_NAMES: Final = 5
"""Of class folders that one line lists."""

_FEW_CLASSES: Final = 22_000
"""ImageNet-22k's: a small part of a data set may keep the numbers of the whole."""


def check_listed(
    config: Algorithm, samples: Mapping[str, Samples], stage: StageName, world_size: int
) -> None:
    """Refuse images that a stage of this submission could not use, before hours of other stages.

    Args:
        config: the run's.
        samples: of each partition.
        stage: which is about to begin.
        world_size: its number of processes; a later stage may have fewer.

    Raises:
        ConfigError: when they do not fill a global batch.
        InvalidDataError: when there are fewer than clusters, or evaluate lacks labels.
    """
    for later, recipe in _list_recipes(config):
        Schedule.plan(recipe, len(samples[TRAIN].paths), world_size if later == stage else 1)
    if "cluster" in config.stages and not config.inputs.features:
        check_num_clusters(config, len(samples[TRAIN].paths))
    if "evaluate" in config.stages:
        count_classes(config, samples[TRAIN], samples[VAL])


def _list_recipes(config: Algorithm) -> Iterator[tuple[StageName, Optimization]]:
    if "pretext" in config.stages:
        yield "pretext", config.pretext
    if "train" in config.stages:
        yield "train", config.train
    if "evaluate" in config.stages and "heads" in config.evaluate.protocols:
        yield "evaluate", config.evaluate.heads


def check_num_clusters(config: Algorithm, num_images: int) -> None:
    """Refuse more clusters than there are images to cluster.

    Raises:
        InvalidDataError: naming both numbers.
    """
    if config.cluster.num_clusters > num_images:
        raise InvalidDataError(
            f"cluster.numClusters: got {config.cluster.num_clusters}, want at most the "
            f"{num_images} images of the train partition"
        )


def count_classes(config: Algorithm, train: Samples, val: Samples) -> int:
    """Return the number of classes, and refuse labels that the protocols cannot use.

    Raises:
        InvalidDataError: when there are none, they are of another kind than a protocol needs, or
            are no numbers of classes.
    """
    evaluate = config.evaluate
    if train.labels is None:
        raise InvalidDataError(_explain_unlabelled(config.data, TRAIN, train.paths))
    if val.labels is None:
        raise InvalidDataError(_explain_unlabelled(config.data, VAL, val.paths))
    if config.data.format == "folder":
        _check_class_folders(train.class_names, val.class_names)
    _check_class_numbers(train.labels, val.labels)
    if "svm" in evaluate.protocols:
        check_positives(train.labels, evaluate.svm.folds)
    if train.labels.ndim == val.labels.ndim == 1:
        return int(max(train.labels.max(), val.labels.max())) + 1
    if others := [protocol for protocol in evaluate.protocols if protocol != "svm"]:
        raise InvalidDataError(
            f"evaluate.protocols: {', '.join(others)} needs one label per image, but the labels "
            f"are {train.labels.shape} and {val.labels.shape}; ask for svm alone"
        )
    if train.labels.shape[1:] != val.labels.shape[1:]:
        raise InvalidDataError(
            f"data.valLabels: {val.labels.shape}, want as many classes as data.trainLabels, which "
            f"is {train.labels.shape}"
        )
    return int(train.labels.shape[1])


def _explain_unlabelled(data: Data, partition: str, paths: tuple[str, ...]) -> str:
    if data.format == "filelist":
        return (
            f"evaluate needs labels: give data.{partition}Labels, a .npy of one number for each "
            f"path of data.{partition}"
        )
    depth = len(Path(data.train if partition == TRAIN else data.val).parts)
    stray = next(path for path in paths if len(Path(path).parts) == depth + 1)
    return (
        f"evaluate needs labels: {stray} lies in no class folder; put each image of "
        f"data.{partition} into a folder of its class, or take it away"
    )


def _check_class_folders(train: tuple[str, ...], val: tuple[str, ...]) -> None:
    """Refuse classes that no train image shows: val's names begin with train's."""
    if others := val[len(train) :]:
        raise InvalidDataError(
            f"data.val: evaluate knows no class {_name_some(others)}, because data.train has only "
            f"the class folders {_name_some(train)}; rename or remove the others"
        )


def _check_class_numbers(train: np.ndarray, val: np.ndarray) -> None:
    """Refuse ids in place of numbers of classes: every number up to the largest costs memory.

    A class may be shown in one partition alone, so images of both count.
    """
    for name, labels in ((TRAIN, train), (VAL, val)):
        largest = int(labels.max()) if labels.ndim == 1 else 0
        if largest >= max(len(train) + len(val), _FEW_CLASSES):
            raise InvalidDataError(
                f"data.{name}Labels: got class number {largest}, with {len(train):,} train and "
                f"{len(val):,} val images; number the classes from 0 without gaps"
            )


def _name_some(names: tuple[str, ...]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def check_positives(labels: np.ndarray, folds: int) -> None:
    """Refuse labels of which some class is shown too rarely for a cross-validation.

    Raises:
        InvalidDataError: when there is such a class.
    """
    shown_in = spread_labels(labels)
    for number, shown in enumerate((shown_in == 1).sum(0).tolist()):
        if shown < folds or len(labels) - shown < folds:
            raise InvalidDataError(
                f"evaluate.svm: class {number} is shown in {shown} of {len(labels)} train images; "
                f"want at least svm.folds ({folds}) with it and without"
            )


def spread_labels(labels: np.ndarray) -> np.ndarray:
    """Return (N, C) of 1, 0, -1 for such labels or for one number an image."""
    if labels.ndim == 2:
        return labels
    spread: np.ndarray = (labels[:, None] == np.arange(labels.max() + 1)).astype(np.int64)
    return spread
