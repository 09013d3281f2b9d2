"""Inspecting tells what is in a file and which networks it would fill."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from clusterfit.config.sections.inputs import Weights
from clusterfit.errors import InvalidDataError
from clusterfit.interop.inspection import inspect_weights
from clusterfit.interop.weights import load_backbone_weights

Save = Callable[[object], Path]
BuildNet = Callable[..., nn.Module]


def test_what_it_tells_of_a_file(
    net18: BuildNet, save: Save, vissl_checkpoint: Callable[..., dict[str, Any]]
) -> None:
    model = net18(0).half()
    path = save(vissl_checkpoint(model))
    found = inspect_weights(path)
    assert (found.file_format, found.found_at) == (
        "torch zip",
        "classy_state_dict.base_model.model",
    )
    assert found.size_bytes == path.stat().st_size
    assert found.num_values == sum(value.numel() for value in model.state_dict().values())
    entries = {entry.key: entry for entry in found.tensors}
    stem = entries["trunk._feature_blocks.conv1.weight"]
    assert (stem.shape, stem.dtype) == ((64, 3, 7, 7), "float16")
    best = found.fits[0]
    assert (best.model, best.num_found, best.num_wanted) == ("resnet18", 100, 100)
    assert (best.num_surplus, best.num_misshapen, best.settings) == (0, 0, "")
    assert [fit.model for fit in found.fits] == ["resnet18", "resnet34"]


def test_a_deeper_network_is_not_mistaken(save: Save) -> None:
    state = models.resnet34().state_dict()
    found = inspect_weights(save(state), models=["resnet18", "resnet34", "resnet50"])
    loadable = [fit for fit in found.fits if not fit.num_misshapen]
    assert [fit.model for fit in loadable] == ["resnet34", "resnet18"]
    assert [fit.fraction for fit in loadable] == [1, pytest.approx(100 / 180)]
    assert loadable[1].num_surplus == 80
    assert next(fit for fit in found.fits if fit.model == "resnet50").num_misshapen > 0


def test_the_settings_it_names_do_load(net18: BuildNet, save: Save) -> None:
    state = net18(0).state_dict()
    path = save({"student": {f"encoder_q.{key}": value for key, value in state.items()}})
    (best, *_) = inspect_weights(path, models=["resnet18"]).fits
    assert best.settings == "removePrefix: encoder_q."
    name, value = best.settings.split(": ")
    weights = Weights.model_validate({"from": "path", "path": "a", name: value})
    assert load_backbone_weights(net18(1), path, weights).loaded_fraction == 1


def test_timms_names_under_a_prefix(save: Save) -> None:
    """As DINO saves its teacher: timm's names behind `backbone.`."""
    with torch.device("meta"):
        keys = {key: value.shape for key, value in models.vit_b_32().state_dict().items()}
    timm = {
        "cls_token": keys["class_token"],
        "pos_embed": keys["encoder.pos_embedding"],
        "patch_embed.proj.weight": keys["conv_proj.weight"],
    }
    for number in range(12):
        for theirs, ours in (
            ("norm1.weight", "ln_1.weight"),
            ("norm1.bias", "ln_1.bias"),
            ("norm2.weight", "ln_2.weight"),
            ("norm2.bias", "ln_2.bias"),
            ("attn.qkv.weight", "self_attention.in_proj_weight"),
            ("attn.qkv.bias", "self_attention.in_proj_bias"),
            ("mlp.fc1.weight", "mlp.0.weight"),
            ("mlp.fc2.bias", "mlp.3.bias"),
        ):
            timm[f"blocks.{number}.{theirs}"] = keys[
                f"encoder.layers.encoder_layer_{number}.{ours}"
            ]
    state = {f"backbone.{key}": torch.zeros(1).expand(shape) for key, shape in timm.items()}
    (best, *_) = inspect_weights(save({"teacher": state}), models=["vit_b_32"]).fits
    assert best.settings == "removePrefix: backbone."
    assert best.num_found == len(timm)


def test_nothing_fits(save: Save) -> None:
    assert inspect_weights(save({"a.weight": torch.ones(3)}), models=["resnet18"]).fits == ()


def test_inspecting_executes_nothing(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save({"a": torch.ones(1), "b": Bomb()}, tmp_path / "a.pth")
    with pytest.raises(InvalidDataError, match=r"posix\.mkdir"):
        inspect_weights(tmp_path / "a.pth")
    assert not (tmp_path / "made").exists()
