"""The record of networks against torchvision itself."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from safetensors.torch import save
from torchvision import models

from clusterfit.config.networks import check_name, read_networks
from clusterfit.worker.networks.backbone import list_model_names
from tests.chance import draw_cases

SCRIPT = Path(__file__).parents[3] / "scripts" / "write_networks.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """Load the script that writes the record."""
    spec = importlib.util.spec_from_file_location("write_networks", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_record_names_every_network_that_a_worker_can_build() -> None:
    assert [*read_networks()] == list_model_names()


@pytest.mark.parametrize("name", ["resnet8_small", "resnet18", "squeezenet1_1", "mobilenet_v2"])
def test_the_record_is_what_the_script_measures(script: ModuleType, name: str) -> None:
    recorded = json.loads(script.TARGET.read_text(encoding="utf-8"))["networks"][name]
    assert script.measure_network(name) == recorded


@pytest.mark.campaign
def test_any_of_the_record_is_what_the_script_measures(script: ModuleType) -> None:
    """A dozen of them; `scripts/write_networks.py --check` takes minutes for all."""
    recorded = json.loads(script.TARGET.read_text(encoding="utf-8"))["networks"]
    for case, chance in draw_cases("networks", 12):
        name = chance.choice(sorted(recorded))
        assert script.measure_network(name) == recorded[name], f"{case}: {name}"


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "mnasnet0_5"])
def test_parameters_and_file_sizes_are_torchvisions(name: str) -> None:
    model = models.get_model(name, weights=None, num_classes=17)
    network = read_networks()[name]
    assert network.count_parameters(17) == sum(p.numel() for p in model.parameters())
    written = len(save(model.state_dict()))
    assert network.weights_bytes(17) == pytest.approx(written, rel=0.002)


def test_resnet50_is_as_everyone_knows_it() -> None:
    network = read_networks()["resnet50"]
    assert network.count_parameters(1000) == 25_557_032
    assert network.find_width("res5avg", 224, is_pooled=True) == 2048
    assert network.find_width("res4", 224, is_pooled=True) == 1024
    assert network.find_width("res4", 224, is_pooled=False) == 1024 * 14 * 14
    assert network.find_width("res5avg", 320, is_pooled=False) == 2048
    assert network.find_width("res4", 320, is_pooled=False) is None  # only known at 224 pixels
    assert network.find_width("layer9", 224, is_pooled=True) is None


def test_an_unknown_name_is_refused_with_near_ones() -> None:
    assert check_name("resnet50") == "resnet50"
    assert check_name("") == ""
    with pytest.raises(ValueError, match=r"^got resnet5, want .*resnet8_small; did you mean "):
        check_name("resnet5")
