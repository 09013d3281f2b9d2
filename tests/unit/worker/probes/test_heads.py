"""Heads on pooled layers: their widths, one step by hand, and statistics over ranks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from clusterfit.config.sections.evaluation import Evaluate, Heads, PooledLayer
from clusterfit.errors import ConfigError
from clusterfit.worker.distenv import DistEnv
from clusterfit.worker.networks.backbone import build_model
from clusterfit.worker.probes.batch_norm import CrossRankBatchNorm
from clusterfit.worker.probes.heads import Heads as HeadsNetwork
from clusterfit.worker.probes.heads import count_hits
from clusterfit.worker.probes.layers import PooledFeatures, PooledTrunk
from clusterfit.worker.training.stepping import Stepper

TINY = (
    PooledLayer(layer="conv1", kernel=3, stride=2, padding=1),
    PooledLayer(layer="res3", kernel=2, stride=2),
    PooledLayer(layer="res5avg"),
)


def build_trunk(layers: tuple[PooledLayer, ...], crop_pixels: int, name: str) -> PooledTrunk:
    return PooledTrunk(build_model(name, 2, 0, crop_pixels, "m"), build_recipe(layers, crop_pixels))


def build_recipe(layers: tuple[PooledLayer, ...], crop_pixels: int) -> Evaluate:
    return Evaluate(layers=layers, crop_pixels=crop_pixels, precision="fp32", fold_batch_norm=False)


def test_a_resnet50_has_vissls_widths() -> None:
    trunk = build_trunk(Evaluate().layers, 224, "resnet50")
    assert trunk.shapes == (
        (64, 12, 12), (256, 6, 6), (512, 4, 4), (1024, 3, 3), (2048, 2, 2), (2048, 1, 1),
    )  # fmt: skip
    assert PooledFeatures(trunk).widths == (9216, 9216, 8192, 9216, 8192, 2048)


def test_layers_are_pooled_as_plain_modules_pool_them() -> None:
    model = build_model("resnet8_small", 2, 0, 8, "m").eval()
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    seen: dict[str, torch.Tensor] = {}
    for name in ("relu", "layer2", "avgpool"):
        model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.setdefault(name, output.clone())
        )
    with torch.no_grad():
        model(images)
    trunk = PooledTrunk(copy.deepcopy(model), build_recipe(TINY, 8))
    conv1, res3, res5avg = trunk(images)
    assert trunk.shapes == tuple(output.shape[1:] for output in (conv1, res3, res5avg))
    torch.testing.assert_close(conv1, nn.AvgPool2d(3, 2, 1)(seen["relu"]))
    torch.testing.assert_close(res3, nn.AvgPool2d(2, 2)(seen["layer2"]))
    torch.testing.assert_close(res5avg, seen["avgpool"])
    rows = PooledFeatures(trunk)(images)
    torch.testing.assert_close(rows[:, : conv1[0].numel()], conv1.flatten(1))
    assert not any(output.requires_grad for output in (conv1, res3, res5avg))


def test_a_layer_is_not_overwritten_by_the_ones_after_it() -> None:
    """In ResNets the ReLU after bn1 works in place."""
    layers = (PooledLayer(layer="bn1"), PooledLayer(layer="conv1"))
    trunk = build_trunk(layers, 8, "resnet8_small")
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    norm, relu = trunk(images)
    assert norm.min() < 0
    torch.testing.assert_close(relu, norm.relu())


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [("vit_b_32", "encoder.ln", (768, 5, 1)), ("swin_t", "features.7", (768, 2, 2)),
     ("mobilenet_v3_small", "flatten", (576, 1, 1))],
)  # fmt: skip
def test_tokens_images_and_vectors_all_become_channels_and_places(
    name: str, layer: str, shape: tuple[int, ...]
) -> None:
    trunk = build_trunk((PooledLayer(layer=layer),), 64, name)
    assert trunk.shapes == (shape,)
    (output,) = trunk(torch.rand(2, 3, 64, 64))
    assert output.shape[1:] == shape


def test_windows_that_do_not_fit_are_refused_with_the_layers_size() -> None:
    layers = (PooledLayer(layer="conv1"), PooledLayer(layer="res4", kernel=3))
    with pytest.raises(ConfigError) as caught:
        build_trunk(layers, 8, "resnet8_small")
    assert caught.value.faults == (
        "evaluate.layers.1.kernel: got 3, but res4 is 2 x 2 at 8 pixels; want a smaller kernel, "
        "or 0",
    )


def test_batch_norm_over_one_rank_is_torchs(env: DistEnv) -> None:
    del env
    ours, theirs = CrossRankBatchNorm(5), nn.BatchNorm2d(5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        images = 3 + 2 * torch.randn(7, 5, 4, 4, generator=generator)
        mine, its = (images.clone().requires_grad_() for _ in range(2))
        weights = torch.randn(7, 5, 4, 4, generator=generator)
        for module, given in ((ours, mine), (theirs, its)):
            (module(given) * weights).sum().backward()
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours(mine), theirs(its), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(ours.eval()(mine), theirs.eval()(its))


def test_one_step_is_that_of_a_program_by_hand(env: DistEnv) -> None:
    """Two heads, float64 numpy: batch norm, linear, cross-entropies summed, SGD with Nesterov."""
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.randn(6, 3, 2, 2, generator=generator), torch.randn(6, 4, 1, 1)]
    targets = torch.tensor([0, 1, 2, 0, 1, 1])
    network = HeadsNetwork([(3, 2, 2), (4, 1, 1)], 3, seed=0)
    recipe = Heads(weight_decay=0.1, momentum=0.9)
    before = {key: value.double().numpy().copy() for key, value in network.state_dict().items()}
    stepper = Stepper(network, recipe, "fp32", False, env.device)
    stepper.settle(outputs, targets)
    for key, value in network.state_dict().items():
        np.testing.assert_array_equal(value.double().numpy(), before[key])  # it leaves no trace
    loss, correct, count = stepper.step(outputs, targets, 0.5).tolist()

    losses, hits = 0.0, 0.0
    for number, output in enumerate(outputs):
        maps = output.double().numpy()
        mean = maps.mean((0, 2, 3), keepdims=True)
        variance = maps.var((0, 2, 3), keepdims=True)
        rows = ((maps - mean) / np.sqrt(variance + 1e-5)).reshape(6, -1)
        weight = before[f"heads.{number}.2.weight"]
        logits = rows @ weight.T + before[f"heads.{number}.2.bias"]
        exponents = np.exp(logits - logits.max(1, keepdims=True))
        fractions = exponents / exponents.sum(1, keepdims=True)
        losses -= np.log(fractions[np.arange(6), targets]).mean()
        hits += (logits.argmax(1) == targets.numpy()).sum() / 2
        gradient = (fractions - np.eye(3)[targets]).T @ rows / 6 + 0.1 * weight
        expected = weight - 0.5 * (gradient + 0.9 * gradient)  # Nesterov's first step
        found = network.state_dict()[f"heads.{number}.2.weight"].double().numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert (loss / 6, correct, count) == pytest.approx((losses, hits, 6), rel=1e-5)


def test_hits_are_counted_among_the_best_guesses() -> None:
    logits = torch.tensor([[[3.0, 2, 1], [1, 2, 3]], [[1, 3, 2], [3, 1, 2]]])  # 2 images, 2 heads
    labels = torch.tensor([0, 2])
    assert count_hits(logits, labels, 1).tolist() == [1, 0]
    assert count_hits(logits, labels, 2).tolist() == [2, 1]
    assert count_hits(logits, labels, 5).tolist() == [2, 2]
