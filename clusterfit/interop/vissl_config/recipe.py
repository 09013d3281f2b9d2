"""VISSL's optimizer, precision and checkpoints -> the settings of a training."""

from __future__ import annotations

from typing import Final

from clusterfit.interop.vissl_config.reading import Reading
from clusterfit.interop.vissl_config.schedule import read_schedule
from clusterfit.interop.vissl_config.trunks import read_model

_SYNC: Final = "MODEL.SYNC_BN_CONFIG"


def read_recipe(reading: Reading, section: str) -> None:
    """Set what pretext and train have in common."""
    read_model(reading, f"{section}.model")
    if reading.flag(f"{_SYNC}.CONVERT_BN_TO_SYNC_BN"):
        reading.judge(
            f"{_SYNC}.CONVERT_BN_TO_SYNC_BN",
            change="left out: each process normalises by its own part of the batch",
        )
    read_optimization(reading, section)
    read_precision(reading, section)


def read_optimization(reading: Reading, section: str) -> None:
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
    if reading.integer("CHECKPOINT.CHECKPOINT_ITER_FREQUENCY") > 0:
        reading.carry("CHECKPOINT.CHECKPOINT_ITER_FREQUENCY", f"{section}.checkpointEverySteps")
    read_loaders(reading)


def read_precision(reading: Reading, section: str) -> None:
    """Set the numbers that a network computes with."""
    key = "MODEL.AMP_PARAMS.USE_AMP"
    is_mixed = reading.flag(key)
    reading.carry(
        key, f"{section}.precision", "bf16" if is_mixed else "fp32",
        "bfloat16 in place of float16, which needs no loss scaling" if is_mixed else "",
    )  # fmt: skip


def read_loaders(reading: Reading) -> None:
    """Set how many processes read images for each rank."""
    if reading.is_given("DATA.NUM_DATALOADER_WORKERS"):
        reading.carry("DATA.NUM_DATALOADER_WORKERS", "data.loadersPerRank")
