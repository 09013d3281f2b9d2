"""A VISSL configuration -> a run file with the same meaning, and an account of every key."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from clusterfit.config.loading import check_node
from clusterfit.config.tree import RunFile
from clusterfit.interop.vissl_config.evaluation import read_heads
from clusterfit.interop.vissl_config.files import (
    Placement,
    find_weights,
    judge_keys_left_to_themselves,
    read_cluster_labels,
    read_images,
    read_weights,
)
from clusterfit.interop.vissl_config.layers import read_layer
from clusterfit.interop.vissl_config.purpose import Purpose, recognise
from clusterfit.interop.vissl_config.reading import Reading, Verdict
from clusterfit.interop.vissl_config.recipe import (
    read_loaders,
    read_optimization,
    read_precision,
    read_recipe,
)
from clusterfit.interop.vissl_config.source import Source, compose
from clusterfit.interop.vissl_config.svm import read_svm
from clusterfit.interop.vissl_config.text import format_run_file
from clusterfit.interop.vissl_config.transforms import (
    read_center_view,
    read_heads_view,
    read_pretext_view,
    read_svm_view,
    read_train_view,
)
from clusterfit.interop.vissl_config.trunks import find_model, read_model

_NAME_LENGTH: Final = 40
_COUNTS: Final = (
    "DISTRIBUTED.NUM_NODES", "DISTRIBUTED.NUM_PROC_PER_NODE", "DATA.TRAIN.BATCHSIZE_PER_REPLICA",
)  # fmt: skip
"""Factors of the global batch."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """A run file and how it came to be."""

    source: Source
    purpose: Purpose
    run_file: RunFile
    text: str
    """The run file as it is written, with comments."""
    verdicts: tuple[Verdict, ...]
    placements: tuple[Placement, ...]
    """Files that have to be put somewhere."""


def convert(file: Path, overrides: Sequence[str] = (), name: str = "") -> Conversion:
    """Translate a VISSL configuration.

    Args:
        file: The configuration, as in VISSL's configs/config.
        overrides: As on VISSL's command line.
        name: The run's name; empty: made of the file's.

    Raises:
        MissingInputError: a file is not there.
        ConfigError: it cannot be read, or asks for something that there is not here.
    """
    source = compose(file, overrides)
    reading = Reading(source)
    purpose = recognise(reading, source)
    for key in _COUNTS:
        if reading.integer(key) < 1:
            raise reading.fault(key, "1 or more")
    reading.set("formatVersion", 1)
    reading.set("name", name or _make_name(file))
    stages, read = _PURPOSES[purpose]
    reading.set("stages", stages)
    if reading.is_given("LOSS.name"):
        reading.judge("LOSS.name", "cross-entropy")
    if reading.is_given("SEED_VALUE"):
        reading.carry("SEED_VALUE", "seed")
    placements = read(reading)
    _read_platform(reading)
    return Conversion(
        source=source,
        purpose=purpose,
        run_file=check_node(reading.run_file()),
        text=format_run_file(reading, source, purpose),
        verdicts=reading.verdicts(),
        placements=tuple(placements),
    )


def _read_step1(reading: Reading) -> list[Placement]:
    placements = _read_extraction(reading)
    for key, ours in (
        ("CLUSTERFIT.NUM_CLUSTERS", "cluster.numClusters"),
        ("CLUSTERFIT.NUM_ITER", "cluster.numIterations"),
    ):
        reading.integer(key)
        reading.carry(key, ours)
    if reading.text("CLUSTERFIT.CLUSTER_BACKEND") != "faiss":
        raise reading.fault("CLUSTERFIT.CLUSTER_BACKEND", "faiss")
    reading.carry("CLUSTERFIT.CLUSTER_BACKEND", "cluster.engine")
    reading.set("cluster.init", "random")
    reading.set("platform.stages.cluster.processesPerNode", 1)
    reading.set("cluster.normalize", True)
    if reading.get("CLUSTERFIT.FEATURES.DIMENSIONALITY_REDUCTION"):
        reading.carry(
            "CLUSTERFIT.FEATURES.DIMENSIONALITY_REDUCTION", "cluster.pcaDim",
            change="centred once; VISSL centres a second time as it projects",
        )  # fmt: skip
    limit = reading.integer("CLUSTERFIT.DATA_LIMIT")
    if limit > 0:
        num_clusters = reading.integer("CLUSTERFIT.NUM_CLUSTERS")
        reading.carry(
            "CLUSTERFIT.DATA_LIMIT", "cluster.maxPointsPerCentroid", -(-limit // num_clusters),
            "counted per cluster, and drawn by the seed",
        )  # fmt: skip
    for key in ("DATA_PARTITION", "TEST_PARTITION", "DATASET_NAME"):
        if reading.is_given(f"CLUSTERFIT.FEATURES.{key}"):
            reading.judge(f"CLUSTERFIT.FEATURES.{key}", "data.train, data.val")
    for key in ("EXTRACT", "PATH"):
        if reading.is_given(f"CLUSTERFIT.FEATURES.{key}"):
            reading.judge(
                f"CLUSTERFIT.FEATURES.{key}", "stages: extract, cluster",
                "features are extracted where they are not there yet; VISSL's own come in with "
                "clusterfit artifacts import-features",
            )  # fmt: skip
    return placements


def _read_extraction(reading: Reading) -> list[Placement]:
    has_test = bool(reading.sequence("DATA.TEST.DATA_SOURCES")) and reading.flag("TEST_MODEL")
    if reading.is_given("TEST_MODEL"):
        reading.judge("TEST_MODEL", "data.val")
    partitions = ("TRAIN", "TEST") if has_test else ("TRAIN",)
    placements = read_images(reading, partitions)
    for partition in partitions:
        read_center_view(reading, partition, "extract")
    read_model(reading, "extract.model")
    placements += read_weights(reading, "extract.weights")
    read_layer(reading)
    reading.carry("DATA.TRAIN.BATCHSIZE_PER_REPLICA", "extract.batchSizePerRank")
    reading.set("extract.dtype", "float32")
    read_precision(reading, "extract")
    read_loaders(reading)
    return placements


def _read_step2(reading: Reading) -> list[Placement]:
    placements = read_cluster_labels(reading)
    placements = read_images(reading, ("TRAIN",)) + placements
    read_train_view(reading, "train")
    read_recipe(reading, "train")
    if reading.is_given("MODEL.HEAD.PARAMS"):
        reading.judge("MODEL.HEAD.PARAMS", "one linear layer, of as many outputs as clusters")
    return placements


def _read_rotnet(reading: Reading) -> list[Placement]:
    placements = read_images(reading, ("TRAIN",))
    read_pretext_view(reading)
    read_recipe(reading, "pretext")
    if reading.is_given("MODEL.HEAD.PARAMS"):
        reading.judge("MODEL.HEAD.PARAMS", "one linear layer, of four outputs")
    return placements


def _read_evaluation(reading: Reading) -> list[Placement]:
    placements = read_images(reading, ("TRAIN", "TEST"), is_labelled=True)
    read_center_view(reading, "TEST", "evaluate")
    model, weights, needed = _find_backbone(reading)
    read_heads_view(reading)
    read_heads(reading, model, weights)
    read_optimization(reading, "evaluate.heads")
    read_precision(reading, "evaluate")
    return placements + needed


def _read_svm(reading: Reading) -> list[Placement]:
    placements = read_images(reading, ("TRAIN", "TEST"), is_labelled=True)
    for partition in ("TRAIN", "TEST"):
        read_svm_view(reading, partition)
    model, weights, needed = _find_backbone(reading)
    read_svm(reading, model, weights)
    read_precision(reading, "evaluate")
    read_loaders(reading)
    return placements + needed


def _find_backbone(reading: Reading) -> tuple[str, str, list[Placement]]:
    """Return the network that is judged, where its weights are, and what has to be put there."""
    model = find_model(reading, "evaluate.backbones.model")
    weights = find_weights(reading, "evaluate.backbones.path")
    judge_keys_left_to_themselves(reading)
    return (model, weights.ours, [weights]) if weights else (model, "", [])


def _read_platform(reading: Reading) -> None:
    """Set the GPUs: nodes times processes of each."""
    devices = {"gpu": "cuda", "cpu": "cpu"}
    device = devices.get(reading.text("MACHINE.DEVICE"))
    if device is None:
        raise reading.fault("MACHINE.DEVICE", "gpu or cpu")
    reading.carry("MACHINE.DEVICE", "device", device)
    nodes = reading.integer("DISTRIBUTED.NUM_NODES")
    processes = reading.integer("DISTRIBUTED.NUM_PROC_PER_NODE")
    if device == "cpu":
        reading.set("platform.gpus", 0)
        reading.carry("DISTRIBUTED.NUM_NODES", "platform.nodesWithoutGpus", nodes)
        reading.carry("DISTRIBUTED.NUM_PROC_PER_NODE", "platform.processesPerNode", processes)
        return
    reading.carry("DISTRIBUTED.NUM_NODES", "platform.gpus", nodes * processes)
    reading.carry("DISTRIBUTED.NUM_PROC_PER_NODE", "platform.gpusPerNode", processes)


def _make_name(file: Path) -> str:
    """Return a run's name like a file's: letters, digits and hyphens, at most 40."""
    name = re.sub(r"[^a-z0-9]+", "-", file.stem.lower()).strip("-")
    if not name[:1].isalpha():
        name = f"vissl-{name}"
    return name[:_NAME_LENGTH].rstrip("-")


_PURPOSES: Final[dict[Purpose, tuple[list[str], Callable[[Reading], list[Any]]]]] = {
    Purpose.STEP1: (["extract", "cluster"], _read_step1),
    Purpose.EXTRACT: (["extract"], _read_extraction),
    Purpose.STEP2: (["train"], _read_step2),
    Purpose.ROTNET: (["pretext"], _read_rotnet),
    Purpose.EVALUATE: (["evaluate"], _read_evaluation),
    Purpose.SVM: (["evaluate"], _read_svm),
}
"""The stages of each purpose, and what sets their sections."""
