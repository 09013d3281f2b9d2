"""The same networks under other names: timm's, VISSL's, and some of their authors'.

Each table holds the same tensors, in the same order, as a network of torchvision's, and gives the
same features (tests compare them). timm names ResNets, wide ResNets, ResNeXts and DenseNets as
torchvision does. What no renaming makes ours is listed in `foreign`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from clusterfit.interop.renaming import Spelling, inside, spell

_STAGE: Final = r"(?P<stage>\d+)\."
_BLOCK: Final = r"(?P<block>\d+)\."
_KIND: Final = r"(?P<kind>weight|bias)$"

_VIT: Final = {
    r"cls_token$": "class_token",
    r"(pos_embed|(?<!encoder\.)pos_embedding)$": "encoder.pos_embedding",
    r"patch_embed\.proj\.": "conv_proj.",
    **inside(
        rf"blocks\.{_BLOCK}",
        "encoder.layers.encoder_layer_{block}.",
        {
            r"norm(?P<norm>[12])\.": "ln_{norm}.",
            r"attn\.qkv\.": "self_attention.in_proj_",
            r"attn\.proj\.": "self_attention.out_proj.",
            r"mlp\.fc1\.": "mlp.0.",
            r"mlp\.fc2\.": "mlp.3.",
        },
    ),
    rf"norm\.{_KIND}": "encoder.ln.{kind}",
    rf"head\.{_KIND}": "heads.head.{kind}",
}

_CONVNEXT_BLOCK: Final = "features.{stage*2+1}.{block}."
_TIMM_CONVNEXT: Final = {
    r"stem\.(?P<layer>[01])\.": "features.0.{layer}.",
    rf"stages\.{_STAGE}downsample\.": "features.{stage*2}.",
    **inside(
        rf"stages\.{_STAGE}blocks\.{_BLOCK}",
        _CONVNEXT_BLOCK,
        {
            r"conv_dw\.": "block.0.",
            r"norm\.": "block.2.",
            r"mlp\.fc1\.": "block.3.",
            r"mlp\.fc2\.": "block.5.",
            r"gamma$": "layer_scale",
        },
    ),
    r"head\.norm\.": "classifier.0.",
    r"head\.fc\.": "classifier.2.",
}
_FIRST_CONVNEXT: Final = {
    rf"downsample_layers\.{_STAGE}": "features.{stage*2}.",
    **inside(
        rf"stages\.{_STAGE}{_BLOCK}",
        _CONVNEXT_BLOCK,
        {
            r"dwconv\.": "block.0.",
            r"norm\.": "block.2.",
            r"pwconv1\.": "block.3.",
            r"pwconv2\.": "block.5.",
            r"gamma$": "layer_scale",
        },
    ),
    rf"norm\.{_KIND}": "classifier.0.{kind}",
    rf"head\.{_KIND}": "classifier.2.{kind}",
}

_SWIN: Final = {
    r"patch_embed\.proj\.": "features.0.0.",
    r"patch_embed\.norm\.": "features.0.2.",
    **inside(
        rf"layers\.{_STAGE}blocks\.{_BLOCK}",
        "features.{stage*2+1}.{block}.",
        {
            r"(?P<same>norm[12]|attn)\.": "{same}.",
            r"mlp\.fc1\.": "mlp.0.",
            r"mlp\.fc2\.": "mlp.3.",
        },
    ),
    r"head\.fc\.": "head.",
}

_REGNET_BLOCK: Final = "trunk_output.block{stage}.block{stage}-{block-1}."
_TIMM_REGNET: Final = {
    r"stem\.conv\.": "stem.0.",
    r"stem\.bn\.": "stem.1.",
    **inside(
        r"s(?P<stage>\d+)\.b(?P<block>\d+)\.",
        _REGNET_BLOCK,
        {
            **{
                rf"conv{number}\.{theirs}\.": f"f.{letter}.{ours}."
                for number, letter in ((1, "a"), (2, "b"), (3, "c"))
                for theirs, ours in (("conv", 0), ("bn", 1))
            },
            r"se\.": "f.se.",
            r"downsample\.conv\.": "proj.0.",
            r"downsample\.bn\.": "proj.1.",
        },
    ),
    r"head\.fc\.": "fc.",
}
_VISSL_REGNET: Final = {
    r"(stem|conv1)\.stem\.": "stem.",
    **inside(
        r"(trunk_output\.block\d+|res\d+)\.block(?P<stage>\d+)-(?P<block>\d+)\.",
        "trunk_output.block{stage}.block{stage}-{block}.",
        {
            r"proj\.weight$": "proj.0.weight",
            r"bn\.": "proj.1.",
            r"f\.c\.weight$": "f.c.0.weight",
            r"f\.final_bn\.": "f.c.1.",
            r"f\.se\.excitation\.0\.": "f.se.fc1.",
            r"f\.se\.excitation\.2\.": "f.se.fc2.",
            r"(?P<same>f\.[ab])\.": "{same}.",
        },
    ),
}

_TIMM_EFFICIENT_NET: Final = {
    r"conv_stem\.": "features.0.0.",
    r"conv_head\.": "features.8.0.",
    **inside(
        rf"blocks\.0\.{_BLOCK}",
        "features.1.{block}.block.",
        {
            r"conv_dw\.": "0.0.",
            r"bn1\.": "0.1.",
            r"se\.conv_reduce\.": "1.fc1.",
            r"se\.conv_expand\.": "1.fc2.",
            r"conv_pw\.": "2.0.",
            r"bn2\.": "2.1.",
        },
    ),
    **inside(
        rf"blocks\.{_STAGE}{_BLOCK}",
        "features.{stage+1}.{block}.block.",
        {
            r"conv_pw\.": "0.0.",
            r"bn1\.": "0.1.",
            r"conv_dw\.": "1.0.",
            r"bn2\.": "1.1.",
            r"se\.conv_reduce\.": "2.fc1.",
            r"se\.conv_expand\.": "2.fc2.",
            r"conv_pwl\.": "3.0.",
            r"bn3\.": "3.1.",
        },
    ),
    r"bn1\.": "features.0.1.",
    r"bn2\.": "features.8.1.",
    rf"classifier\.{_KIND}": "classifier.1.{kind}",
}

SPELLINGS: Final = (
    spell("timm's vision transformers", _VIT),
    spell("timm's ConvNeXts", _TIMM_CONVNEXT),
    spell("VISSL's and their authors' ConvNeXts", _FIRST_CONVNEXT),
    spell(
        "timm's Swin transformers",
        _SWIN,
        {rf"layers\.{_STAGE}downsample\.": "features.{stage*2}."},
    ),
    spell(
        "VISSL's and their authors' Swin transformers",
        _SWIN,
        {rf"layers\.{_STAGE}downsample\.": "features.{stage*2+2}."},
    ),
    spell("timm's RegNets", _TIMM_REGNET),
    spell("VISSL's and Classy Vision's RegNets", _VISSL_REGNET),
    spell(
        "timm's EfficientNets",
        _TIMM_EFFICIENT_NET,
        note="timm's tf_efficientnet files have the same names but pad as TensorFlow does, and "
        "torchvision's b5 to b7 have another epsilon in batch norm: with these, features differ",
    ),
    spell(
        "torchvision's DenseNets of 2017",
        {r"(?P<layer>norm|relu|conv)\.(?P<number>[12])\.": "{layer}{number}."},
    ),
)
"""The nearest first; a file is read by the one that gives most keys of the model."""


def find_spelling(file_keys: Iterable[str], model_keys: Collection[str]) -> Spelling | None:
    """Return the spelling in which most of a file's other keys are the model's; None where none is.

    Args:
        file_keys: Without wrappers and prefixes.
        model_keys: Of a network of torchvision's.
    """
    unknown = [key for key in file_keys if key not in model_keys]
    best, most = None, 0
    for spelling in SPELLINGS:
        num_found = sum(spelling.respell(key) in model_keys for key in unknown)
        if num_found > most:
            best, most = spelling, num_found
    return best
