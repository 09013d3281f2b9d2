"""One optimizer step, beside torch.optim.SGD run on its own over groups that are made by name."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from clusterfit.config.sections.training import Train
from clusterfit.worker.distenv import DistEnv
from clusterfit.worker.networks.small_resnet import SmallResNet
from clusterfit.worker.training.stepping import Stepper, group_parameters

DECAY, RATES, NUM_CLASSES = 0.1, (0.05, 0.2, 0.1), 6


def is_of_a_norm(name: str) -> bool:
    """Tell whether a parameter of a ResNet is a batch norm's, by torchvision's key names."""
    return ".bn" in f".{name}" or "downsample.1" in name


def test_all_of_a_resnet_decays_but_its_batch_norms() -> None:
    model = torchvision.models.resnet50()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, undecayed = group_parameters(model, DECAY)
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (DECAY, 0)
    without = {names[id(parameter)] for parameter in undecayed["params"]}
    assert without == {name for name in names.values() if is_of_a_norm(name)}
    assert len(without) == 2 * 53
    both = [names[id(parameter)] for parameter in (*decayed["params"], *undecayed["params"])]
    assert sorted(both) == sorted(names.values()), "each once"


def train_independently(
    model: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]], nesterov: bool, norms: float
) -> None:
    """Take a step for each batch with torch's own SGD; `norms` is the decay of batch norms."""
    named = list(model.named_parameters())
    groups = [
        {
            "params": [parameter for name, parameter in named if is_of_a_norm(name) == is_norm],
            "weight_decay": norms if is_norm else DECAY,
        }
        for is_norm in (False, True)
    ]
    optimizer = torch.optim.SGD(groups, lr=1, momentum=0.9, nesterov=nesterov)
    model.train()
    for rate, (images, targets) in zip(RATES, batches, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        functional.cross_entropy(model(images), targets).backward()
        optimizer.step()


@pytest.mark.parametrize("nesterov", [False, True])
def test_steps_are_those_of_sgd_without_decay_of_batch_norms(env: DistEnv, nesterov: bool) -> None:
    torch.manual_seed(0)
    model = SmallResNet(NUM_CLASSES)
    alone, decaying = copy.deepcopy(model), copy.deepcopy(model)
    batches = [(torch.randn(8, 3, 8, 8), torch.arange(8) % NUM_CLASSES) for _ in RATES]
    recipe = Train(weight_decay=DECAY, momentum=0.9, nesterov=nesterov)
    stepper = Stepper(model, recipe, "fp32", channels_last=False, device=env.device)
    stepper.settle(*batches[0])
    for rate, (images, targets) in zip(RATES, batches, strict=True):
        stepper.step(images, targets, rate)
    train_independently(alone, batches, nesterov, norms=0)
    expected, found = alone.state_dict(), stepper.model.state_dict()
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6, msg=name)
    train_independently(decaying, batches, nesterov, norms=DECAY)
    weight = "layer2.0.downsample.1.weight"
    assert (decaying.state_dict()[weight] - found[weight]).abs().mean() > 1e-2, "it would show"
