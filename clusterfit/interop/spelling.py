"""The same network under other names: timm's vision transformers, torchvision's old DenseNets.

timm names ResNets, wide ResNets, ResNeXts and DenseNets as torchvision does. Its vision
transformers, whose names DINO, MAE and MoCo v3 use as well, hold the same tensors in the same
order under other names, and give the same logits (a test compares them). Its ResNets with a deep
stem (resnet50d and the like) are other networks, and no renaming makes them ours.
"""

from __future__ import annotations

import re
from typing import Final

_BLOCK: Final = r"encoder.layers.encoder_layer_\g<number>."

_RESPELLINGS: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(r"(?P<before>^|\.)" + theirs), r"\g<before>" + ours)
    for theirs, ours in (
        (r"cls_token$", "class_token"),
        (r"pos_embed$", "encoder.pos_embedding"),
        (r"patch_embed\.proj\.", "conv_proj."),
        (r"blocks\.(?P<number>\d+)\.norm(?P<norm>[12])\.", _BLOCK + r"ln_\g<norm>."),
        (r"blocks\.(?P<number>\d+)\.attn\.qkv\.", _BLOCK + "self_attention.in_proj_"),
        (r"blocks\.(?P<number>\d+)\.attn\.proj\.", _BLOCK + "self_attention.out_proj."),
        (r"blocks\.(?P<number>\d+)\.mlp\.fc1\.", _BLOCK + "mlp.0."),
        (r"blocks\.(?P<number>\d+)\.mlp\.fc2\.", _BLOCK + "mlp.3."),
        (r"norm\.(?P<kind>weight|bias)$", r"encoder.ln.\g<kind>"),
        (r"head\.(?P<kind>weight|bias)$", r"heads.head.\g<kind>"),
        # torchvision's DenseNet files of 2017: norm.1 for norm1, conv.2 for conv2.
        (r"(?P<layer>norm|relu|conv)\.(?P<number>[12])\.", r"\g<layer>\g<number>."),
    )
)


def respell(key: str) -> str:
    """Return a key in torchvision's spelling; whatever stands before it, and others, stay."""
    for theirs, ours in _RESPELLINGS:
        spelled, count = theirs.subn(ours, key, count=1)
        if count:
            return spelled
    return key
