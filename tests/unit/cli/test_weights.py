"""`clusterfit weights inspect`: what people hand to it, told from its bytes, never executed."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from tests.unit.cli.conftest import RunCommand


def save_vissl(path: Path, num_classes: int = 4) -> None:
    """Write a ResNet-18 as VISSL's training engine does."""
    state = resnet18(num_classes=num_classes).state_dict()
    trunk = {f"_feature_blocks.{key}": state[key] for key in state if not key.startswith("fc.")}
    heads = {"0.clf.0.weight": state["fc.weight"], "0.clf.0.bias": state["fc.bias"]}
    model = {"model": {"trunk": trunk, "heads": heads}, "meta": {}}
    torch.save({"classy_state_dict": {"base_model": model}}, path)


def test_a_vissl_checkpoint(run_command: RunCommand, tmp_path: Path) -> None:
    save_vissl(tmp_path / "rotnet.torch")
    ending = run_command("weights", "inspect", "rotnet.torch")
    assert (ending.code, ending.err) == (0, "")
    assert "state dict at classy_state_dict.base_model.model: VISSL's layout" in ending.out
    assert "trunk._feature_blocks.conv1.weight" in ending.out
    assert "... and 114 more; --keys lists them" in ending.out
    rows = [line.split("  ") for line in ending.out.splitlines()]
    verdicts = {row[0]: row[-1].strip() for row in rows if row[0].startswith("resnet")}
    assert verdicts["resnet18"] == "loads"
    assert verdicts["resnet34"].startswith("refused: ")
    assert "heads.0.clf.0.bias" in run_command("weights", "inspect", "--keys", "rotnet.torch").out


def test_as_json(run_command: RunCommand, tmp_path: Path) -> None:
    save_vissl(tmp_path / "rotnet.torch")
    found = json.loads(run_command("weights", "inspect", "rotnet.torch", "-o", "json").out)
    assert found["format"] == "torch zip"
    assert found["found_at"] == "classy_state_dict.base_model.model"
    assert {"key": "heads.0.clf.0.bias", "shape": [4], "dtype": "float32"} in found["tensors"]
    best = found["fits"][0]
    assert (best["model"], best["num_found"], best["num_wanted"], best["fraction"]) == (
        "resnet18", 100, 100, 1.0,
    )  # fmt: skip


def test_a_prefix_that_a_run_file_must_name(run_command: RunCommand, tmp_path: Path) -> None:
    state = {f"encoder.{key}": value for key, value in resnet18().state_dict().items()}
    torch.save({"net_a": state, "net_b": state}, tmp_path / "two.pth")
    ending = run_command("weights", "inspect", "two.pth")
    assert ending.code == 65
    assert "several state dicts" in ending.err
    ending = run_command("weights", "inspect", "two.pth", "--state-dict-key", "net_a")
    assert "loads; with removePrefix: encoder." in ending.out


def test_networks_that_torchvision_does_not_have(run_command: RunCommand, tmp_path: Path) -> None:
    """VISSL's AlexNet of RotNet, and its EfficientNet."""
    alexnet = {"_feature_blocks.0.0.weight": torch.ones(64, 3, 11, 11),
               "_feature_blocks.0.1.weight": torch.ones(64)}  # fmt: skip
    block = "_feature_blocks.block0."
    efficient = {f"{block}depthwise_conv.weight": torch.ones(32, 1, 3, 3),
                 f"{block}se_reduce.weight": torch.ones(8, 32, 1, 1)}  # fmt: skip
    for trunk, wanted in ((alexnet, "VISSL's AlexNets"), (efficient, "pads as TensorFlow does")):
        model = {"model": {"trunk": trunk, "heads": {}}}
        torch.save({"classy_state_dict": {"base_model": model}}, tmp_path / "weights.torch")
        ending = run_command("weights", "inspect", "weights.torch")
        assert ending.code == 0
        assert f"refused by every network: it is {'one of ' if trunk is alexnet else ''}" in (
            ending.out
        )
        assert wanted in ending.out


class Bomb:
    """Runs a command where a pickle of it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """Return what unpickling calls."""
        return os.system, ("touch was-run",)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("page.torch", "not weights but a web page titled 'Sign in'"),
        ("half.torch", "a zip file that is cut off or damaged"),
        ("bomb.torch", "needs Python code to be run (posix.system), which is refused"),
        ("bomb.pkl", "a Python pickle, which runs code as it is read"),
        ("nowhere.torch", "there is no such weights file"),
    ],
)
def test_what_is_no_weights_file(
    name: str, wanted: str, run_command: RunCommand, tmp_path: Path
) -> None:
    (tmp_path / "page.torch").write_text("<!DOCTYPE html><title>Sign in</title>")
    save_vissl(tmp_path / "half.torch")
    whole = (tmp_path / "half.torch").read_bytes()
    (tmp_path / "half.torch").write_bytes(whole[: len(whole) // 2])
    torch.save({"state_dict": {"w": torch.ones(1)}, "bomb": Bomb()}, tmp_path / "bomb.torch")
    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps(Bomb()))
    ending = run_command("weights", "inspect", name)
    assert (ending.code, ending.out) == (66 if name.startswith("no") else 65, "")
    (line,) = ending.err.splitlines()
    assert line.startswith(f"error: {name}: ")
    assert wanted in line
    assert not (tmp_path / "was-run").exists()


def test_other_shapes(run_command: RunCommand, tmp_path: Path) -> None:
    state = resnet18().state_dict()
    torch.save({key: torch.cat([value, value]) if value.ndim else value
                for key, value in state.items()}, tmp_path / "wide.pth")  # fmt: skip
    ending = run_command("weights", "inspect", "wide.pth")
    assert ending.code == 0
    assert "loads" not in ending.out
