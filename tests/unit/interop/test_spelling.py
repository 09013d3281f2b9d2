"""Other people's networks, written down from their own descriptions, compute what ours do.

timm's are compared with timm itself by scripts/compare_with_timm.py, which also writes the names
that are gone through here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.regnet import BlockParams, RegNet
from torchvision.models.swin_transformer import SwinTransformer

from clusterfit.config.sections.inputs import Weights
from clusterfit.errors import InvalidDataError
from clusterfit.interop.head import find_head
from clusterfit.interop.keys import is_derived, map_keys
from clusterfit.interop.report import LoadReport
from clusterfit.interop.weights import load_backbone_weights

Save = Callable[[object], Path]

TIMM = json.loads((Path(__file__).parent / "timm_keys.json").read_text())
"""timm's keys and shapes by its own names of networks; Apache-2.0, Ross Wightman."""
OURS = {
    "convnext_tiny": "convnext_tiny",
    "efficientnet_b0": "efficientnet_b0",
    "regnetx_008": "regnet_x_800mf",
    "regnety_004": "regnet_y_400mf",
    "swin_tiny_patch4_window7_224": "swin_t",
    "vit_base_patch16_224": "vit_b_16",
}


def fill(model: nn.Module) -> nn.Module:
    """Give every tensor values of its own, so that none can stand for another."""
    torch.manual_seed(3)
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            spread = torch.rand_like(value)
            value.copy_(spread + 0.5 if "var" in key else spread - 0.4)
    return model.eval()


def load(model: nn.Module, path: Path) -> LoadReport:
    weights = Weights.model_validate({"from": "path", "path": "some/file"})
    return load_backbone_weights(model, path, weights)


def as_vissl(trunk: dict[str, Tensor]) -> dict[str, object]:
    model = {"model": {"trunk": trunk, "heads": {}}, "meta": {}}
    return {"classy_state_dict": {"base_model": model}}


class ClassyBlock(nn.Module):
    """Classy Vision's bottleneck with squeeze and excitation, by its own names."""

    def __init__(self, width_in: int, width: int, stride: int, group_width: int) -> None:
        super().__init__()
        self.has_projection = width_in != width or stride != 1
        if self.has_projection:
            self.proj = nn.Conv2d(width_in, width, 1, stride, bias=False)
            self.bn = nn.BatchNorm2d(width)
        groups, squeezed = width // group_width, round(0.25 * width_in)
        self.f = nn.Sequential()
        self.f.a = nn.Sequential(
            nn.Conv2d(width_in, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.f.b = nn.Sequential(
            nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.f.se = nn.Module()
        self.f.se.excitation = nn.Sequential(
            nn.Conv2d(width, squeezed, 1), nn.ReLU(), nn.Conv2d(squeezed, width, 1), nn.Sigmoid()
        )
        self.f.c = nn.Conv2d(width, width, 1, bias=False)
        self.f.final_bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform, squeeze, excite, and add the way around."""
        hidden = self.f.get_submodule("b")(self.f.get_submodule("a")(x))
        excitation = self.f.get_submodule("se.excitation")
        hidden = hidden * excitation(hidden.mean((2, 3), keepdim=True))
        hidden = self.f.get_submodule("final_bn")(self.f.get_submodule("c")(hidden))
        around = self.bn(self.proj(x)) if self.has_projection else x
        out: Tensor = (around + hidden).relu()
        return out


class VisslRegNet(nn.Module):
    """VISSL's trunk: a stem called conv1, stages called res2 and on, blocks named by stage."""

    def __init__(self, depths: Sequence[int], widths: Sequence[int], group_width: int) -> None:
        super().__init__()
        stem = nn.Sequential()
        stem.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()
        )
        blocks: dict[str, nn.Module] = {"conv1": stem}
        width_in = 32
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), 1):
            layers = nn.Sequential()
            for number in range(depth):
                stride = 2 if number == 0 else 1
                block = ClassyBlock(width_in, width, stride, group_width)
                layers.add_module(f"block{stage}-{number}", block)
                width_in = width
            blocks[f"res{stage + 1}"] = layers
        self._feature_blocks = nn.ModuleDict(blocks)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of the last stage."""
        for block in self._feature_blocks.values():
            images = block(images)
        return images


def test_vissls_regnet_computes_what_ours_does(save: Save) -> None:
    depths, widths = [1, 2, 1], [16, 32, 48]
    theirs = fill(VisslRegNet(depths, widths, 8))
    params = BlockParams(depths, widths, [8, 8, 8], [1.0, 1.0, 1.0], [2, 2, 2], se_ratio=0.25)
    images = torch.rand(2, 3, 32, 32)
    ours = RegNet(params, num_classes=5).eval()
    report = load(ours, save(as_vissl(theirs.state_dict())))
    assert report.num_backbone_loaded == report.num_backbone_wanted
    assert report.unused == ()
    with torch.no_grad():
        wanted = theirs(images)
        assert wanted.isfinite().all()
        assert wanted.std() > 0
        assert torch.equal(ours.trunk_output(ours.stem(images)), wanted)
    # Classy Vision's own files name the stages as torchvision does.
    classy = {
        key.replace("_feature_blocks.conv1.", "stem.")
        .replace("_feature_blocks.res2", "trunk_output.block1")
        .replace("_feature_blocks.res3", "trunk_output.block2")
        .replace("_feature_blocks.res4", "trunk_output.block3"): value
        for key, value in theirs.state_dict().items()
    }
    again = RegNet(params, num_classes=5).eval()
    load(again, save(classy))
    with torch.no_grad():
        assert torch.equal(again.trunk_output(again.stem(images)), wanted)


class ConvNeXtBlock(nn.Module):
    """The authors' block: depthwise, norm over channels, two linear layers, a scale."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return x and what the block adds to it."""
        hidden = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        hidden = self.gamma * self.pwconv2(nn.functional.gelu(self.pwconv1(hidden)))
        out: Tensor = x + hidden.permute(0, 3, 1, 2)
        return out


class ChannelNorm(nn.LayerNorm):
    """A norm over the channels of (n, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each place."""
        normed: Tensor = super().forward(x.permute(0, 2, 3, 1))
        return normed.permute(0, 3, 1, 2)


class AuthorsConvNeXt(nn.Module):
    """The network as VISSL and its authors name it."""

    def __init__(self, depths: Sequence[int], dims: Sequence[int]) -> None:
        super().__init__()
        self.downsample_layers = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(3, dims[0], 4, 4), ChannelNorm(dims[0], eps=1e-6))]
        )
        for before, after in pairwise(dims):
            self.downsample_layers.append(
                nn.Sequential(ChannelNorm(before, eps=1e-6), nn.Conv2d(before, after, 2, 2))
            )
        self.stages = nn.ModuleList(
            nn.Sequential(*[ConvNeXtBlock(dim) for _ in range(depth)])
            for depth, dim in zip(depths, dims, strict=True)
        )
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        """Return one vector an image."""
        for down, stage in zip(self.downsample_layers, self.stages, strict=True):
            images = stage(down(images))
        out: Tensor = self.norm(images.mean((2, 3)))
        return out


def test_vissls_convnext_computes_what_ours_does(save: Save) -> None:
    depths, dims = [1, 2, 1, 1], [8, 12, 16, 20]
    theirs = fill(AuthorsConvNeXt(depths, dims))
    settings = [
        CNBlockConfig(dim, after, depth)
        for dim, after, depth in zip(dims, [*dims[1:], None], depths, strict=True)
    ]
    ours = ConvNeXt(settings, num_classes=5).eval()
    ours.classifier[2] = nn.Linear(20, 5)
    report = load(ours, save(as_vissl(theirs.state_dict())))
    assert report.num_backbone_loaded == report.num_backbone_wanted
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        norm = ours.get_submodule("classifier.0")
        pooled = ours.get_submodule("avgpool")(ours.get_submodule("features")(images))
        features = norm(pooled).flatten(1)
        torch.testing.assert_close(features, theirs(images), atol=1e-5, rtol=1e-5)


def test_the_authors_swin_names_merge_a_stage_earlier(save: Save) -> None:
    """They put the downsampling at the end of a stage, timm at the beginning of the next."""
    ours = fill(SwinTransformer([2, 2], 8, [1, 1, 1], [1, 2, 1], [4, 4], num_classes=5))
    names = {
        "features.0.0.": "patch_embed.proj.",
        "features.0.2.": "patch_embed.norm.",
        "features.1.0.": "layers.0.blocks.0.",
        "features.2.": "layers.0.downsample.",
        "features.3.": "layers.1.blocks.",
        "features.4.": "layers.1.downsample.",
        "features.5.": "layers.2.blocks.",
    }
    state: dict[str, Tensor] = {}
    for key, value in ours.state_dict().items():
        renamed = next((new + key[len(old) :] for old, new in names.items() if old in key), key)
        renamed = renamed.replace(".mlp.0.", ".mlp.fc1.").replace(".mlp.3.", ".mlp.fc2.")
        state[renamed] = value.reshape(16, 16) if "position_index" in key else value
    state["layers.1.blocks.1.attn_mask"] = torch.zeros(4, 16, 16)
    fresh = SwinTransformer([2, 2], 8, [1, 1, 1], [1, 2, 1], [4, 4], num_classes=5).eval()
    report = load(fresh, save(as_vissl(state)))
    assert report.num_backbone_loaded == report.num_backbone_wanted
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        one, other = (model.get_submodule("features")(images) for model in (fresh, ours))
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", TIMM["models"])
def test_every_tensor_of_timms_has_its_place(name: str) -> None:
    theirs = {key: tuple(shape) for key, shape in TIMM["models"][name].items()}
    with torch.device("cpu" if OURS[name].startswith("regnet") else "meta"):
        model = models.get_model(OURS[name], num_classes=10)
    ours = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    sources = map_keys(theirs, ours, head=find_head(model)).sources
    assert {key for key in ours if key not in sources and not is_derived(key)} == set()
    assert set(sources.values()) == set(theirs)
    for key, source in sources.items():
        numbers = [[n for n in shape if n != 1] for shape in (ours[key], theirs[source])]
        assert numbers[0] == numbers[1], (key, source)


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        (["_feature_blocks.0.0.weight", "_feature_blocks.2.0.weight"], "VISSL's AlexNets"),
        (["_feature_blocks.block3.depthwise_conv.weight"], "pads as TensorFlow does"),
        (["blocks.0.gamma_1", "blocks.0.attn.q_bias"], "a BEiT"),
        (["layers.0.blocks.0.attn.q_bias"], "a Swin v2"),
        (["conv1.0.weight", "conv1.6.weight", "layer1.0.conv1.weight"], "a deep stem"),
        (["cls_attn_blocks.0.norm1.weight"], "an XCiT"),
    ],
)
def test_networks_that_torchvision_does_not_have_are_refused_by_name(
    keys: list[str], wanted: str, save: Save
) -> None:
    model: Any = models.resnet18()
    state = dict(model.state_dict())  # even where all of the backbone is there
    state |= {key: torch.ones(3, 3) for key in keys}
    with pytest.raises(InvalidDataError) as caught:
        load(models.resnet18(), save(state))
    (fault,) = caught.value.faults
    assert wanted in fault
    assert keys[-1] in fault or keys[0] in fault


def test_axes_of_length_one_do_not_matter(save: Save) -> None:
    """The numbers and their order are the same; any other difference in shape is refused."""
    theirs = fill(models.squeezenet1_1(num_classes=5))
    state = theirs.state_dict()
    state["features.3.squeeze.weight"] = state["features.3.squeeze.weight"].flatten(1)
    ours = models.squeezenet1_1(num_classes=5).eval()
    load(ours, save(state))
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))
    state["features.3.squeeze.weight"] = state["features.3.squeeze.weight"].T
    with pytest.raises(InvalidDataError, match="has another shape"):
        load(models.squeezenet1_1(num_classes=5), save(state))
