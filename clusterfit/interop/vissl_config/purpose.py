"""What a VISSL configuration is for, told by what it does rather than by its name."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from clusterfit.interop.vissl_config.names import DEFAULTS
from clusterfit.interop.vissl_config.reading import Reading
from clusterfit.interop.vissl_config.source import Source
from clusterfit.interop.vissl_config.transforms import names_of_transforms

_FEATURES: Final = "MODEL.FEATURE_EVAL_SETTINGS"
_CROSS_ENTROPY: Final = frozenset(
    {"CrossEntropyLoss", "cross_entropy_multiple_output_single_target"}
)
_OTHER_PRETEXTS: Final = frozenset(
    {"ImgReplicatePil", "ImgPilToMultiCrop", "ShuffleImgPatches", "ImgPatchesFromTensor",
     "ImgPil2LabTensor", "ImgToTensor"}
)  # fmt: skip
"""Transforms of SimCLR, SwAV, Jigsaw, colorization and the like."""

_COSTS: Final = "SVM.costs.costs_list"


class Purpose(StrEnum):
    """What a VISSL configuration is for."""

    STEP1 = "step 1: features and clusters"
    EXTRACT = "features"
    STEP2 = "step 2: a network from scratch on cluster labels"
    ROTNET = "RotNet pre-training"
    EVALUATE = "linear evaluation"
    SVM = "SVMs on features"


def recognise(reading: Reading, source: Source) -> Purpose:
    """Tell what a configuration is for, by what it does rather than by its name.

    Raises:
        ConfigError: for something that is not done here.
    """
    transforms = names_of_transforms(reading, "TRAIN")
    if "ImgRotatePil" in transforms:
        return Purpose.ROTNET
    layer = reading.text("CLUSTERFIT.FEATURES.LAYER_NAME")
    extracts = reading.flag(f"{_FEATURES}.EXTRACT_TRUNK_FEATURES_ONLY")
    # A train_config.yaml holds every default, so that costs stand in any of them.
    if extracts and not layer and reading.get(_COSTS) != DEFAULTS[_COSTS]:
        _judge_evaluation(reading, "stages: evaluate")
        return Purpose.SVM
    if extracts or source.engine in {"extract_features", "cluster_features"}:
        _judge_evaluation(reading, "stages: extract")
        return Purpose.STEP1 if layer else Purpose.EXTRACT
    if reading.flag(f"{_FEATURES}.EVAL_MODE_ON"):
        _judge_evaluation(reading, "stages: evaluate")
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


def _judge_evaluation(reading: Reading, ours: str) -> None:
    for key in ("EXTRACT_TRUNK_FEATURES_ONLY", "EVAL_MODE_ON", "FREEZE_TRUNK_ONLY"):
        if reading.is_given(f"{_FEATURES}.{key}"):
            reading.judge(f"{_FEATURES}.{key}", ours)
