"""What we write for others comes back bit for bit, read by their rules and not by ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from clusterfit.config.sections.inputs import Weights
from clusterfit.errors import ConfigError, InvalidDataError, WriteError
from clusterfit.interop.export import export_weights
from clusterfit.interop.weights import load_backbone_weights
from clusterfit.worker.networks.small_resnet import SmallResNet

Save = Callable[[object], Path]
LayOut = Callable[..., dict[str, Any]]


def build_net(seed: int, block: type[BasicBlock | Bottleneck] = Bottleneck) -> ResNet:
    """Build the smallest ResNet of a kind, batch statistics that are not the defaults."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ResNet(block, [1, 1, 1, 1], num_classes=3)
        for key, value in model.state_dict().items():
            if "running" in key:
                value.copy_(torch.rand(value.shape) + 0.5)
            if "num_batches" in key:
                value.fill_(seed + 7)
    return model.eval()


@pytest.fixture(scope="module")
def theirs() -> ResNet:
    return build_net(1)


@pytest.fixture
def ours_file(theirs: ResNet, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(theirs.state_dict(), path)
    return path


def check_same(one: nn.Module, other: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        outputs = one(images)
        assert outputs.isfinite().all()
        assert torch.equal(outputs, other(images))
    state = other.state_dict()
    for key, value in one.state_dict().items():
        assert value.dtype == state[key].dtype
        assert torch.equal(value, state[key])


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_torchvision_reads_what_we_write(
    theirs: ResNet, ours_file: Path, images: Tensor, tmp_path: Path, suffix: str
) -> None:
    target = tmp_path / f"out{suffix}"
    export = export_weights(ours_file, target, "torchvision")
    assert (export.num_head_tensors, export.left_out) == (2, ())
    fresh = build_net(2)
    content = load_file(target) if suffix == ".safetensors" else torch.load(target)
    fresh.load_state_dict(content, strict=True)
    check_same(theirs, fresh, images)


class VisslModel(nn.Module):
    """VISSL's division of a ResNet: trunk with feature blocks, list of heads.

    Source: vissl/models/trunks/resnext.py, vissl/models/heads/mlp.py.
    """

    def __init__(self, model: ResNet) -> None:
        super().__init__()
        self.trunk = nn.Module()
        names = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4",
                 "avgpool"]  # fmt: skip
        self.trunk._feature_blocks = nn.ModuleDict(
            {name: model.get_submodule(name) for name in names} | {"flatten": nn.Flatten()}
        )
        head = nn.Module()
        head.clf = nn.Sequential(model.fc)
        self.heads = nn.ModuleList([head])

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        hidden = images
        blocks = self.trunk.get_submodule("_feature_blocks")
        assert isinstance(blocks, nn.ModuleDict)
        for block in blocks.values():
            hidden = block(hidden)
        logits: Tensor = self.heads[0].get_submodule("clf")(hidden)
        return logits


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_vissl_reads_what_we_write(
    block: type[BasicBlock | Bottleneck], images: Tensor, tmp_path: Path
) -> None:
    """As `set_classy_state` does: trunk and heads apart, both strict."""
    theirs = build_net(1, block)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    target = tmp_path / "out.torch"
    export_weights(tmp_path / "model.safetensors", target, "vissl")
    checkpoint = torch.load(target)
    assert checkpoint["type"] == "consolidated"
    state = checkpoint["classy_state_dict"]["base_model"]["model"]
    fresh = VisslModel(build_net(2, block))
    fresh.trunk.load_state_dict(state["trunk"], strict=True)
    fresh.heads.load_state_dict(state["heads"], strict=True)
    check_same(fresh, VisslModel(theirs), images)


def test_there_and_back(theirs: ResNet, ours_file: Path, images: Tensor, tmp_path: Path) -> None:
    export_weights(ours_file, tmp_path / "a.torch", "vissl")
    export_weights(tmp_path / "a.torch", tmp_path / "b.pth", "torchvision")
    export_weights(tmp_path / "b.pth", tmp_path / "c.safetensors", "torchvision")
    for name in ("a.torch", "b.pth", "c.safetensors"):
        fresh = build_net(2)
        weights = Weights.model_validate({"from": "path", "path": name, "minLoadedFraction": 1.0})
        report = load_backbone_weights(fresh, tmp_path / name, weights)
        assert report.head_is_loaded
        check_same(theirs, fresh, images)


def test_dtypes_survive(tmp_path: Path) -> None:
    tensors = {
        "conv1.weight": torch.rand(3, 2).to(torch.bfloat16),
        "bn1.num_batches_tracked": torch.tensor(12345678901),
        "bn1.weight": torch.tensor([float("nan"), -0.0, 1e-40]),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    export_weights(tmp_path / "a.safetensors", tmp_path / "b.pth", "torchvision")
    back = torch.load(tmp_path / "b.pth")
    assert set(back) == set(tensors)
    for key, value in tensors.items():
        assert back[key].dtype == value.dtype
        bits, wanted = (entry.reshape(-1).view(torch.uint8) for entry in (back[key], value))
        assert torch.equal(bits, wanted), key


def test_heads_that_have_no_place_are_named(
    save: Save, vissl_checkpoint: LayOut, theirs: ResNet, tmp_path: Path
) -> None:
    checkpoint = vissl_checkpoint(theirs)
    heads = checkpoint["classy_state_dict"]["base_model"]["model"]["heads"]
    heads["1.clf.0.weight"] = torch.ones(2, 2)
    export = export_weights(save(checkpoint), tmp_path / "out.pth", "torchvision")
    assert export.left_out == ("heads.1.clf.0.weight",)
    written = torch.load(export.path)
    assert "fc.weight" in written
    assert not any(key.startswith("heads.") for key in written)


def test_a_file_holds_only_what_it_names(tmp_path: Path) -> None:
    """A slice of a large tensor must not take the whole tensor with it."""
    torch.save({"a.weight": torch.zeros(1_000_000)[:3]}, tmp_path / "slice.pth")
    export_weights(tmp_path / "slice.pth", tmp_path / "out.pth", "torchvision")
    assert (tmp_path / "out.pth").stat().st_size < 10_000


def test_what_cannot_be_exported(ours_file: Path, tmp_path: Path, save: Save) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.torch or \.pth"):
        export_weights(ours_file, tmp_path / "out.safetensors", "vissl")
    small = save(SmallResNet(3).state_dict())  # three stages
    with pytest.raises(InvalidDataError, match=r"another network's \(no layer4\)"):
        export_weights(small, tmp_path / "out.torch", "vissl")
    transformer = save({"conv_proj.weight": torch.ones(2), "encoder.ln.weight": torch.ones(2)})
    with pytest.raises(InvalidDataError, match=r"another network's \(conv_proj, encoder\)"):
        export_weights(transformer, tmp_path / "out.torch", "vissl")
    assert not (tmp_path / "out.torch").exists()
    twice = save({"conv1.weight": torch.ones(2), "module.conv1.weight": torch.ones(2)})
    with pytest.raises(InvalidDataError, match="two of its keys are one"):
        export_weights(twice, tmp_path / "out.pth", "torchvision")
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError):
        export_weights(ours_file, tmp_path / "file" / "out.pth", "torchvision")
