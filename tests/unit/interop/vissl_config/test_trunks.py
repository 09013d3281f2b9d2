"""Each of VISSL's trunks that torchvision has too becomes its name; the others are refused."""

from __future__ import annotations

import pytest

from clusterfit.interop.vissl_config.conversion import convert
from clusterfit.interop.vissl_config.reading import Outcome
from clusterfit.worker.networks.backbone import list_model_names
from tests.unit.interop.vissl_config.conftest import LABELS, STEP2, refusal, verdict_on

TRUNK = "config.MODEL.TRUNK"


@pytest.mark.parametrize(
    ("overrides", "model"),
    [
        (["RESNETS.DEPTH=18"], "resnet18"),
        (["RESNETS.DEPTH=101"], "resnet101"),
        (["TRUNK_PARAMS.RESNETS.DEPTH=50"], "resnet50"),
        (["RESNETS.GROUPS=32", "RESNETS.WIDTH_PER_GROUP=4"], "resnext50_32x4d"),
        (["RESNETS.DEPTH=101", "RESNETS.GROUPS=32", "RESNETS.WIDTH_PER_GROUP=8"],
         "resnext101_32x8d"),
        (["RESNETS.WIDTH_PER_GROUP=128"], "wide_resnet50_2"),
        (["NAME=regnet", "REGNET.name=regnet_y_400mf"], "regnet_y_400mf"),
        (["NAME=regnet", "REGNET.name=regnet_y_1.6gf"], "regnet_y_1_6gf"),
        (["NAME=regnet_fsdp", "REGNET.name=regnet_x_32gf"], "regnet_x_32gf"),
        (["NAME=efficientnet", "EFFICIENT_NETS.model_version=B0"], "efficientnet_b0"),
        (["NAME=convnext", "CONVNEXT.DEPTH=[3,3,27,3]", "CONVNEXT.DIMS=[128,256,512,1024]"],
         "convnext_base"),
        (["NAME=vision_transformer"], "vit_b_16"),
        (["NAME=vision_transformer", "VISION_TRANSFORMERS.PATCH_SIZE=32"], "vit_b_32"),
        (["NAME=swin_transformer"], "swin_t"),
        (["NAME=mobilenetv3_tv", "MOBILE_NET.NAME=mobilenetv3_large_100"], "mobilenet_v3_large"),
    ],
)  # fmt: skip
def test_trunks_that_torchvision_has(overrides: list[str], model: str) -> None:
    conversion = convert(STEP2, [LABELS, *(f"{TRUNK}.{override}" for override in overrides)])
    assert conversion.run_file.train.model == model
    assert model in list_model_names()
    for override in overrides:
        key = f"{TRUNK}.{override.partition('=')[0]}"
        assert verdict_on(conversion, key).outcome in {Outcome.TAKEN, Outcome.CHANGED}


def test_an_unknown_trunk_is_refused_with_what_is_possible() -> None:
    fault = refusal(STEP2, LABELS, f"{TRUNK}.NAME=alexnet_rotnet")
    assert f'{TRUNK}.NAME: got "alexnet_rotnet", want a trunk that torchvision has too' in fault
    assert "resnet, regnet, regnet_fsdp, efficientnet, convnext" in fault
    assert "(command line)" in fault
    fault = refusal(STEP2, LABELS, f"{TRUNK}.RESNETS.DEPTH=200")
    assert "got DEPTH 200, WIDTH_MULTIPLIER 1, GROUPS 1, WIDTH_PER_GROUP 64" in fault
    assert "18, 34, 50, 101, 152, 50 (GROUPS 32, WIDTH_PER_GROUP 4)" in fault
    fault = refusal(STEP2, LABELS, f"{TRUNK}.RESNETS.WIDTH_MULTIPLIER=4")
    assert "WIDTH_MULTIPLIER 4" in fault
    fault = refusal(STEP2, LABELS, f"{TRUNK}.NAME=regnet", f"{TRUNK}.REGNET.name=regnet_y_256gf")
    assert "regnet_y_32gf" in fault


@pytest.mark.parametrize(
    "override", ["RESNETS.NORM=GroupNorm", "RESNETS.LAYER4_STRIDE=1",
                 "RESNETS.STANDARDIZE_CONVOLUTIONS=True"],
)  # fmt: skip
def test_a_resnet_that_is_another_network_is_refused(override: str) -> None:
    fault = refusal(STEP2, LABELS, f"{TRUNK}.{override}")
    assert f"{TRUNK}.{override.partition('=')[0]}: got" in fault
    assert "because resnet50 has no other" in fault


def test_what_only_starts_otherwise_is_a_change() -> None:
    conversion = convert(STEP2, [LABELS, f"{TRUNK}.RESNETS.ZERO_INIT_RESIDUAL=True"])
    verdict = verdict_on(conversion, f"{TRUNK}.RESNETS.ZERO_INIT_RESIDUAL")
    assert verdict.outcome is Outcome.CHANGED
