"""A VISSL configuration -> a run file with the same meaning, and an account of every key."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
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
    read_labels,
    read_weights,
)
from clusterfit.interop.vissl_config.layers import read_layer
from clusterfit.interop.vissl_config.reading import Reading, Verdict
from clusterfit.interop.vissl_config.schedule import read_schedule
from clusterfit.interop.vissl_config.source import Source, compose
from clusterfit.interop.vissl_config.text import format_run_file
from clusterfit.interop.vissl_config.transforms import (
    names_of_transforms,
    read_center_view,
    read_heads_view,
    read_pretext_view,
    read_train_view,
)
from clusterfit.interop.vissl_config.trunks import find_model, read_model

_NAME_LENGTH: Final = 40
_FEATURES: Final = "MODEL.FEATURE_EVAL_SETTINGS"
_CROSS_ENTROPY: Final = frozenset(
    {"CrossEntropyLoss", "cross_entropy_multiple_output_single_target"}
)
_OTHER_PRETEXTS: Final = frozenset(
    {"ImgReplicatePil", "ImgPilToMultiCrop", "ShuffleImgPatches", "ImgPatchesFromTensor",
     "ImgPil2LabTensor", "ImgToTensor"}
)  # fmt: skip
"""Transforms of SimCLR, SwAV, Jigsaw, colorization and the like."""


class Purpose(StrEnum):
    """What a VISSL configuration is for."""

    STEP1 = "step 1: features and clusters"
    EXTRACT = "features"
    STEP2 = "step 2: a network from scratch on cluster labels"
    ROTNET = "RotNet pre-training"
    EVALUATE = "linear evaluation"


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
    purpose = _recognise(reading, source)
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


def _recognise(reading: Reading, source: Source) -> Purpose:
    """Tell what a configuration is for, by what it does rather than by its name.

    Raises:
        ConfigError: for something that is not done here.
    """
    transforms = names_of_transforms(reading, "TRAIN")
    if "ImgRotatePil" in transforms:
        return Purpose.ROTNET
    layer = reading.text("CLUSTERFIT.FEATURES.LAYER_NAME")
    extracts = reading.flag(f"{_FEATURES}.EXTRACT_TRUNK_FEATURES_ONLY")
    if extracts or source.engine in {"extract_features", "cluster_features"}:
        for key in ("EXTRACT_TRUNK_FEATURES_ONLY", "EVAL_MODE_ON", "FREEZE_TRUNK_ONLY"):
            if reading.is_given(f"{_FEATURES}.{key}"):
                reading.judge(f"{_FEATURES}.{key}", "stages: extract")
        return Purpose.STEP1 if layer else Purpose.EXTRACT
    if reading.flag(f"{_FEATURES}.EVAL_MODE_ON"):
        for key in ("EVAL_MODE_ON", "FREEZE_TRUNK_ONLY"):
            if reading.is_given(f"{_FEATURES}.{key}"):
                reading.judge(f"{_FEATURES}.{key}", "stages: evaluate")
        return Purpose.EVALUATE
    if layer:
        return Purpose.STEP1
    loss = reading.text("LOSS.name")
    if loss not in _CROSS_ENTROPY:
        raise reading.fault(
            "LOSS.name",
            "cross-entropy: of pretext tasks there is RotNet; a network that another method has "
            "trained is where step 1 starts, with extract.weights",
        )
    other = sorted(_OTHER_PRETEXTS.intersection(transforms))
    if other:
        number = transforms.index(other[0])
        raise reading.fault(
            f"DATA.TRAIN.TRANSFORMS[{number}]",
            "RotNet, step 1, step 2 or a linear evaluation: this is another pretext task; its "
            "checkpoint is where step 1 starts, with extract.weights",
        )
    return Purpose.STEP2


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
    _read_precision(reading, "extract")
    _read_loaders(reading)
    return placements


def _read_step2(reading: Reading) -> list[Placement]:
    placements = read_cluster_labels(reading)
    placements = read_images(reading, ("TRAIN",)) + placements
    read_train_view(reading, "train")
    _read_recipe(reading, "train")
    if reading.is_given("MODEL.HEAD.PARAMS"):
        reading.judge("MODEL.HEAD.PARAMS", "one linear layer, of as many outputs as clusters")
    return placements


def _read_rotnet(reading: Reading) -> list[Placement]:
    placements = read_images(reading, ("TRAIN",))
    read_pretext_view(reading)
    _read_recipe(reading, "pretext")
    if reading.is_given("MODEL.HEAD.PARAMS"):
        reading.judge("MODEL.HEAD.PARAMS", "one linear layer, of four outputs")
    return placements


def _read_evaluation(reading: Reading) -> list[Placement]:
    placements = read_images(reading, ("TRAIN", "TEST"))
    for partition in ("TRAIN", "TEST"):
        read_labels(reading, partition)
    read_center_view(reading, "TEST", "evaluate")
    model = find_model(reading, "evaluate.backbones.model")
    weights = find_weights(reading, "evaluate.backbones.path")
    judge_keys_left_to_themselves(reading)
    read_heads_view(reading)
    read_heads(reading, model, weights.ours if weights else "")
    _read_optimization(reading, "evaluate.heads")
    _read_precision(reading, "evaluate")
    return [*placements, weights] if weights else placements


def _read_recipe(reading: Reading, section: str) -> None:
    """Set what pretext and train have in common."""
    read_model(reading, f"{section}.model")
    _read_optimization(reading, section)
    _read_precision(reading, section)


def _read_optimization(reading: Reading, section: str) -> None:
    """Set schedule, SGD and checkpoints.

    Raises:
        ConfigError: it is not SGD.
    """
    if reading.text("OPTIMIZER.name") != "sgd":
        raise reading.fault("OPTIMIZER.name", "sgd")
    if reading.flag("OPTIMIZER.use_larc"):
        raise reading.fault("OPTIMIZER.use_larc", "false: there is no LARC")
    for key in ("OPTIMIZER.name", "OPTIMIZER.use_larc"):
        if reading.is_given(key):
            reading.judge(key, "SGD")
    reading.integer("OPTIMIZER.num_epochs")
    for key, setting in (
        ("OPTIMIZER.num_epochs", "epochs"),
        ("DATA.TRAIN.BATCHSIZE_PER_REPLICA", "batchSizePerRank"),
        ("OPTIMIZER.momentum", "momentum"),
        ("OPTIMIZER.nesterov", "nesterov"),
        ("OPTIMIZER.weight_decay", "weightDecay"),
    ):
        reading.carry(key, f"{section}.{setting}")
    for key, same in (("regularize_bn", False), ("regularize_bias", True)):
        if reading.is_given(f"OPTIMIZER.{key}"):
            reading.judge(
                f"OPTIMIZER.{key}", f"{section}.weightDecay",
                "" if reading.flag(f"OPTIMIZER.{key}") == same else
                "weights and biases decay, batch norms never",
            )  # fmt: skip
    read_schedule(reading, section)
    if reading.flag("REPRODUCIBILITY.CUDDN_DETERMINISTIC"):
        reading.carry("REPRODUCIBILITY.CUDDN_DETERMINISTIC", f"{section}.deterministic")
    if reading.flag("MODEL.SYNC_BN_CONFIG.CONVERT_BN_TO_SYNC_BN"):
        reading.judge(
            "MODEL.SYNC_BN_CONFIG.CONVERT_BN_TO_SYNC_BN",
            change="left out: each process normalises by its own part of the batch",
        )
    if reading.integer("CHECKPOINT.CHECKPOINT_ITER_FREQUENCY") > 0:
        reading.carry("CHECKPOINT.CHECKPOINT_ITER_FREQUENCY", f"{section}.checkpointEverySteps")
    _read_loaders(reading)


def _read_precision(reading: Reading, section: str) -> None:
    key = "MODEL.AMP_PARAMS.USE_AMP"
    is_mixed = reading.flag(key)
    reading.carry(
        key, f"{section}.precision", "bf16" if is_mixed else "fp32",
        "bfloat16 in place of float16, which needs no loss scaling" if is_mixed else "",
    )  # fmt: skip


def _read_loaders(reading: Reading) -> None:
    if reading.is_given("DATA.NUM_DATALOADER_WORKERS"):
        reading.carry("DATA.NUM_DATALOADER_WORKERS", "data.loadersPerRank")


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
}
"""The stages of each purpose, and what sets their sections."""
