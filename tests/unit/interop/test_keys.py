"""Keys of a file become keys of a model as VISSL's settings and other spellings say."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models import densenet121
from torchvision.models.vision_transformer import VisionTransformer

from clusterfit.interop.keys import is_skipped, map_keys, suggest_prefixes


class TimmBlock(nn.Module):
    """A transformer block written with timm's names, as its documentation describes it."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = nn.Module()
        self.attn.qkv = nn.Linear(dim, 3 * dim)
        self.attn.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Module()
        self.mlp.fc1 = nn.Linear(dim, mlp_dim)
        self.mlp.fc2 = nn.Linear(mlp_dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend and transform, (n, T, D) -> (n, T, D)."""
        n, length, dim = tokens.shape
        qkv = self.attn.get_submodule("qkv")(self.norm1(tokens))
        qkv = qkv.reshape(n, length, 3, self.num_heads, dim // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (n, heads, T, D / heads)
        mixed = ((query @ key.transpose(-2, -1)) * query.shape[-1] ** -0.5).softmax(-1) @ value
        mixed = mixed.transpose(1, 2).reshape(n, length, dim)
        tokens = tokens + self.attn.get_submodule("proj")(mixed)
        hidden = nn.functional.gelu(self.mlp.get_submodule("fc1")(self.norm2(tokens)))
        out: Tensor = tokens + self.mlp.get_submodule("fc2")(hidden)
        return out


class TimmTransformer(nn.Module):
    """A small vision transformer with timm's names."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, 12))
        self.pos_embed = nn.Parameter(torch.randn(1, 5, 12))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, 12, 4, 4)
        self.blocks = nn.Sequential(*[TimmBlock(12, 3, 20) for _ in range(2)])
        self.norm = nn.LayerNorm(12, eps=1e-6)
        self.head = nn.Linear(12, 7)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (n, 7)."""
        patches = self.patch_embed.get_submodule("proj")(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], 1)
        logits: Tensor = self.head(self.norm(self.blocks(tokens + self.pos_embed))[:, 0])
        return logits


def test_timms_vision_transformer_gives_torchvisions_logits() -> None:
    torch.manual_seed(0)
    theirs = TimmTransformer().eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours = VisionTransformer(8, 4, 2, 3, 12, 20, num_classes=7).eval()
    state = theirs.state_dict()
    key_map = map_keys([f"module.{key}" for key in state], ours.state_dict(), head="heads.head")
    assert set(key_map.sources) == set(ours.state_dict())
    ours.load_state_dict(
        {key: state[source.removeprefix("module.")] for key, source in key_map.sources.items()}
    )
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(ours(images), theirs(images), atol=1e-5, rtol=1e-5)


def test_the_names_of_torchvisions_old_densenet_files() -> None:
    with torch.device("meta"):
        keys = densenet121().state_dict()
    old = [
        key.replace("norm1.", "norm.1.").replace("norm2.", "norm.2.")
        .replace("conv1.", "conv.1.").replace("conv2.", "conv.2.")
        for key in keys
    ]  # fmt: skip
    assert set(old) != set(keys)
    assert set(map_keys(old, keys).sources) == set(keys)


def test_prefixes_are_applied_in_vissls_order() -> None:
    """Cut once from the front where it is, then put before every key."""
    keys = ["a.a.w", "b.w", "x.a.w"]
    sources = map_keys(
        keys, {"p.a.w", "p.b.w", "p.x.a.w"}, remove_prefix="a.", append_prefix="p."
    ).sources
    assert sources == {"p.a.w": "a.a.w", "p.b.w": "b.w", "p.x.a.w": "x.a.w"}


def test_what_the_model_does_not_have_keeps_the_name_it_was_brought_to() -> None:
    key_map = map_keys(["module.layer9.w", "module.fc.w"], {"fc.w"})
    assert key_map.strangers == {"layer9.w": "module.layer9.w"}


def test_words_of_the_trunk_do_not_skip_the_head() -> None:
    assert is_skipped("layer1.w", ["trunk"], head="fc")
    assert not is_skipped("fc.weight", ["trunk"], head="fc")
    assert is_skipped("fc.weight", ["heads.0"], head="fc")


def test_prefixes_are_suggested_for_both_sides() -> None:
    ours = {"body.a.w": (1,), "body.b.w": (2,), "body.c.w": (3,)}
    theirs = {"net.a.w": (1,), "net.b.w": (2,), "net.d.w": (3,)}
    suggestion = suggest_prefixes(theirs, ours)
    assert suggestion is not None
    assert str(suggestion) == "removePrefix: net. and appendPrefix: body."
    assert suggestion.num_matches == 2
    assert suggest_prefixes({"net.a.w": (1,)}, ours) is None
    shortest = suggest_prefixes({f"x.{key}": shape for key, shape in ours.items()}, ours)
    assert str(shortest) == "removePrefix: x."
    assert suggest_prefixes({}, ours) is None
