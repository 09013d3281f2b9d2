"""VISSL's configurations, rebuilt, and quick ways to convert them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusterfit.config.loading import load_run_file
from clusterfit.errors import ClusterfitError
from clusterfit.interop.vissl_config.conversion import Conversion, convert
from clusterfit.interop.vissl_config.reading import Verdict

CONFIGS = Path(__file__).parent / "configs" / "config"

STEP1 = CONFIGS / "pretrain/clusterfit/cluster_features_resnet_8gpu_rotation_in1k.yaml"
STEP1_AT_HEAD = CONFIGS / "pretrain/clusterfit/cluster_features_resnet_8gpu_imagenet.yaml"
STEP1_AT_FIRST = CONFIGS / "pretrain/clusterfit/cluster_features_resnet_8gpu_2020.yaml"
STEP2 = CONFIGS / "pretrain/clusterfit/clusterfit_resnet_8gpu_imagenet.yaml"
ROTNET = CONFIGS / "pretrain/rotnet/rotnet_8gpu_resnet.yaml"
BENCHMARKS = CONFIGS / "benchmark/linear_image_classification"
LINEAR = BENCHMARKS / "imagenet1k/eval_resnet_8gpu_transfer_in1k_linear.yaml"
PLACES = BENCHMARKS / "places205/eval_resnet_8gpu_transfer_places205_linear.yaml"
INATURALIST = BENCHMARKS / "inaturalist18/eval_resnet_8gpu_transfer_inaturalist18_linear.yaml"
VOC = BENCHMARKS / "voc07/eval_resnet_8gpu_transfer_voc07_svm.yaml"
EXTRACT = CONFIGS / "feature_extraction/extract_resnet_in1k_8gpu.yaml"

WEIGHTS = "config.MODEL.WEIGHTS_INIT.PARAMS_FILE=weights/rotnet.torch"
LABELS = "config.DATA.TRAIN.LABEL_PATHS=[labels/step1.npy]"

ALL = [
    (STEP1, [WEIGHTS]),
    (STEP1_AT_HEAD, [WEIGHTS]),
    (STEP1_AT_FIRST, ["config.MODEL.PARAMS_FILE.PATH=weights/rotnet.torch"]),
    (STEP2, [LABELS]),
    (ROTNET, []),
    (LINEAR, [WEIGHTS]),
    (PLACES, [WEIGHTS]),
    (INATURALIST, [WEIGHTS]),
    (VOC, [WEIGHTS]),
    (EXTRACT, [WEIGHTS]),
]
"""Each configuration with the overrides that VISSL's documentation gives it."""


def load_text(conversion: Conversion, folder: Path) -> dict[str, Any]:
    """Return what our own loader reads in the text that an import writes, defaults included."""
    path = folder / "run.yaml"
    path.write_text(conversion.text)
    loaded = load_run_file([path]).run_file
    assert loaded == conversion.run_file
    return loaded.dump()


def given(conversion: Conversion) -> dict[str, Any]:
    """Return what the text says, without defaults."""
    content = yaml.safe_load(conversion.text)
    assert isinstance(content, dict)
    return content


def verdict_on(conversion: Conversion, key: str) -> Verdict:
    """Return the one verdict on a key; its name may be followed by a transform's."""
    (found,) = (
        verdict
        for verdict in conversion.verdicts
        if verdict.key == key or verdict.key.startswith((f"{key} (", f"{key}:"))
    )
    return found


def refusal(file: Path, *overrides: str) -> str:
    """Return the one line with which a configuration is refused."""
    with pytest.raises(ClusterfitError) as caught:
        convert(file, overrides)
    (fault,) = caught.value.faults
    assert "\n" not in fault
    return fault


Variant = Callable[[Path, str, str], Path]


@pytest.fixture
def variant(tmp_path: Path) -> Variant:
    """Write a configuration with one text replaced by another."""

    def write(file: Path, old: str, new: str) -> Path:
        text = file.read_text()
        assert old in text
        path = tmp_path / file.name
        path.write_text(text.replace(old, new))
        return path

    return write
