"""Any torchvision network, cut after any layer, gives that layer's features."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import resnet18

from clusterfit.errors import ConfigError
from clusterfit.worker.networks.backbone import (
    Extractor,
    Pooling,
    build_model,
    list_model_names,
    resolve_layers,
)


@cache
def build(name: str, num_classes: int = 5, crop_pixels: int = 32) -> nn.Module:
    """Build a network whose batch norms have statistics of their own, as a trained one's."""
    model = build_model(name, num_classes, 0, crop_pixels, "extract.model")
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                assert tensor is not None
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model.eval()


def cut(
    model: nn.Module, layer: str, pooling: Pooling = "avg", fold_batch_norm: bool = False
) -> Extractor:
    return Extractor(model, layer, pooling, "fp32", fold_batch_norm, "extract.layer")


@pytest.fixture
def images() -> Tensor:
    """Return (2, 3, 32, 32) float32."""
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2)) - 0.5


def hook(model: nn.Module, module: str, images: Tensor) -> Tensor:
    """Return what a module of the whole network puts out, the plain way."""
    seen: list[Tensor] = []
    handle = model.get_submodule(module).register_forward_hook(
        lambda _module, _inputs, output: seen.append(output.detach().clone())
    )
    with torch.no_grad():
        model(images)
    handle.remove()
    return seen[-1]


def test_weights_are_a_function_of_the_seed_alone() -> None:
    torch.manual_seed(5)
    first = build_model("resnet8_small", 4, 0, 32, "p").state_dict()
    torch.manual_seed(6)
    second = build_model("resnet8_small", 4, 0, 32, "p").state_dict()
    other = build_model("resnet8_small", 4, 1, 32, "p").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_all_of_torchvisions_classifiers_are_known() -> None:
    assert {"resnet50", "vit_b_16", "swin_t", "squeezenet1_1", "resnet8_small"} <= set(
        list_model_names()
    )
    assert not any("detection" in name or "raft" in name for name in list_model_names())


def test_an_unknown_model_is_refused_with_near_ones() -> None:
    with pytest.raises(ConfigError, match=r"^train\.model: got resnet5, want .*resnet50"):
        build_model("resnet5", 2, 0, 32, "train.model")
    with pytest.raises(ConfigError) as caught:
        build_model("qqqqqqq", 2, 0, 32, "train.model")
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "crop_pixels"),
    [("vit_b_32", 33), ("maxvit_t", 30), ("alexnet", 32), ("squeezenet1_1", 16)],
)
def test_a_size_that_a_transformer_cannot_take_is_a_fault_of_the_run_file(
    name: str, crop_pixels: int
) -> None:
    with pytest.raises(ConfigError, match=rf"^train\.model: {name} at {crop_pixels} pixels: "):
        build_model(name, 2, 0, crop_pixels, "train.model")


@pytest.mark.parametrize(
    ("alias", "shape"),
    [
        ("conv1", (64, 16, 16)),
        ("res1", (64, 8, 8)),
        ("res2", (64, 8, 8)),
        ("res3", (128, 4, 4)),
        ("res4", (256, 2, 2)),
        ("res5", (512, 1, 1)),
        ("res5avg", (512, 1, 1)),
        ("flatten", (512,)),
    ],
)
def test_vissls_layers_are_found_in_a_resnet(
    images: Tensor, alias: str, shape: tuple[int, ...]
) -> None:
    assert cut(resnet18(), alias, "none")(images).shape == (2, int(np.prod(shape)))


@pytest.mark.parametrize(
    ("alias", "module"),
    [("res1", "maxpool"), ("res2", "layer1"), ("res5", "layer4"), ("res5avg", "avgpool")],
)
def test_an_alias_gives_what_the_plain_network_computes_there(
    images: Tensor, alias: str, module: str
) -> None:
    model = build("resnet18")
    expected = hook(model, module, images)
    torch.testing.assert_close(cut(model, alias, "none")(images), expected.flatten(1))


def test_conv1_ends_after_batch_norm_and_relu(images: Tensor) -> None:
    model = build("resnet18")
    expected = hook(model, "bn1", images).relu()
    torch.testing.assert_close(cut(model, "conv1", "none")(images), expected.flatten(1))


@pytest.mark.parametrize("pooling", ["avg", "max", "none"])
def test_pooling_is_numpys(images: Tensor, pooling: Pooling) -> None:
    model = build("resnet18")
    plain = hook(model, "layer2", images).numpy()  # (2, 128, 4, 4)
    expected = {
        "avg": plain.mean((2, 3)),
        "max": plain.max((2, 3)),
        "none": plain.reshape(2, -1),
    }[pooling]
    np.testing.assert_allclose(cut(model, "layer2", pooling)(images), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "resnet8_small", "mobilenet_v3_small"])
@pytest.mark.parametrize("fold_batch_norm", [True, False])
def test_an_extractor_leaves_the_network_as_it_was(
    images: Tensor, name: str, fold_batch_norm: bool
) -> None:
    model = build(name)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        logits = model(images)
    cut(model, "avgpool", fold_batch_norm=fold_batch_norm)(images)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(model(images), logits)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "conv1"),
        ("resnet18", "res3"),
        ("resnet18", "res5avg"),
        ("resnet8_small", "res2"),
        ("resnet8_small", "avgpool"),
        ("mobilenet_v3_small", "avgpool"),
    ],
)
def test_folding_batch_norms_changes_nothing_but_rounding(
    images: Tensor, name: str, layer: str
) -> None:
    plain = cut(build(name), layer)(images)
    extractor = cut(build(name), layer, fold_batch_norm=True)
    folded = extractor(images)
    torch.testing.assert_close(folded, plain, rtol=1e-3, atol=1e-4 * float(plain.abs().max()))


def test_folding_takes_the_batch_norms_away() -> None:
    extractor = cut(build("resnet18"), "res5avg", fold_batch_norm=True)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in extractor.modules())
    assert not any(module.training for module in extractor.modules())


@pytest.mark.parametrize(
    ("name", "layer", "dim"),
    [
        ("mobilenet_v3_small", "features.12", 576),
        ("squeezenet1_1", "features.8", 256),
        ("shufflenet_v2_x0_5", "conv1", 24),
        ("convnext_tiny", "features.1.0.block.4", 384),
        ("vit_b_32", "encoder.ln", 768),
        ("swin_t", "permute", 768),
    ],
)
def test_any_family_is_cut_anywhere_and_pooled_over_its_own_axes(
    images: Tensor, name: str, layer: str, dim: int
) -> None:
    features = cut(build(name), layer, fold_batch_norm=True)(images)
    assert features.shape == (2, dim)
    assert features.dtype == torch.float32
    assert features.isfinite().all()


def test_channels_that_come_last_are_averaged_over_the_other_axes(images: Tensor) -> None:
    model = build("swin_t")
    expected = hook(model, "features.1", images)  # (2, 8, 8, 96)
    assert expected.shape == (2, 8, 8, 96)
    torch.testing.assert_close(cut(model, "features.1")(images), expected.mean((1, 2)))


def test_tokens_are_averaged_over_the_tokens(images: Tensor) -> None:
    model = build("vit_b_32")
    expected = hook(model, "encoder.ln", images)  # (2, 1 + 1, 768)
    torch.testing.assert_close(cut(model, "encoder.ln")(images), expected.mean(1))


@pytest.mark.parametrize(
    ("name", "layer", "near"),
    [
        ("resnet18", "layer5", "layer"),
        ("resnet18", "res6", "res"),
        ("resnet8_small", "res5", "res4, res3, res2"),
        ("resnet18", "layer", "layer4"),
        ("resnet18", "zzzz", "fc"),
    ],
)
def test_an_unknown_layer_is_refused_with_near_ones(name: str, layer: str, near: str) -> None:
    with pytest.raises(ConfigError, match=rf"^extract\.layer: got {layer}, which .*{near}"):
        resolve_layers(build(name), [layer], "extract.layer")


def test_bf16_is_close_to_fp32_and_comes_as_float32(images: Tensor) -> None:
    plain = cut(build("resnet8_small"), "res5avg")(images)
    half = Extractor(build("resnet8_small"), "res5avg", "avg", "bf16", True, "extract.layer")
    features = half(images)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, plain, rtol=0.1, atol=0.05 * float(plain.abs().max()))


def test_features_of_an_image_do_not_depend_on_its_batch(images: Tensor) -> None:
    extractor = cut(build("resnet8_small"), "res5avg", fold_batch_norm=True)
    alone = torch.cat([extractor(image[None]) for image in images])
    torch.testing.assert_close(extractor(images), alone)


def test_the_small_resnet_loads_its_own_file_by_torchvisions_key_names(
    tmp_path: Path, images: Tensor
) -> None:
    model = build("resnet8_small")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    state = load_file(tmp_path / "model.safetensors")
    known = set(resnet18().state_dict())
    assert set(state) <= known | {key.replace("layer1", "layer2") for key in known}
    other = build_model("resnet8_small", 5, 1, 32, "p").eval()
    other.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(other(images), model(images))


def test_the_small_resnet_takes_images_of_any_size() -> None:
    model = build("resnet8_small")
    for side in (8, 17, 32):
        assert model(torch.zeros(1, 3, side, side)).shape == (1, 5)
