"""Networks that are known by their keys, and that no renaming makes torchvision's."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

_NETWORKS: Final = tuple(
    (re.compile(rf"(^|\.){pattern}"), description)
    for pattern, description in (
        (
            r"(se_reduce|depthwise_conv)\.",
            "an EfficientNet that pads as TensorFlow does (VISSL's, Classy Vision's): torchvision "
            "pads evenly, so the same weights give other features",
        ),
        (
            r"_feature_blocks\.\d+\.(\d+\.)?weight$",
            "one of VISSL's AlexNets, whose layers are not those of torchvision's",
        ),
        (r"cls_attn_blocks\.", "an XCiT, which torchvision does not have"),
        (
            r"blocks\.\d+\.(gamma_1|attn\.q_bias)$",
            "a BEiT or a Swin v2 of timm's or VISSL's, whose attention is not torchvision's",
        ),
        (r"blocks\.\d+\.attn\.pos_proj\.", "a ConViT, which torchvision does not have"),
        (r"layer1\.0\.conv2\.(main_conv|gap)", "a ResNet with selective kernels"),
        (
            r"conv1\.6\.weight$",
            "a ResNet with a deep stem (timm's resnet50d and the like), which torchvision does not "
            "have",
        ),
    )
)  # fmt: skip


def describe_foreign_network(keys: Collection[str]) -> str:
    """Return what network these keys betray, empty where they betray none of these.

    Args:
        keys: Those of a file that the model does not have under any name.
    """
    for pattern, description in _NETWORKS:
        if any(pattern.search(key) for key in keys):
            return description
    return ""
