"""A ResNet for small images, such as the bundled digits: it trains on a laptop's cores.

Follows the CIFAR networks of He et al., arXiv:1512.03385, section 4.2: a 3x3 stem without pooling,
three stages, depth 6 n + 2; here n = 1, with twice their width. Its modules carry torchvision's
names, so layers, aliases and weight files work as with any ResNet.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

_WIDTHS = (32, 64, 128)


class SmallResNet(nn.Module):
    """conv1, three stages of one basic block each, global average pooling, one linear layer."""

    def __init__(self, num_classes: int) -> None:
        """Build with He initialisation."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, _WIDTHS[0], kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _build_stage(_WIDTHS[0], _WIDTHS[0], stride=1)
        self.layer2 = _build_stage(_WIDTHS[0], _WIDTHS[1], stride=2)
        self.layer3 = _build_stage(_WIDTHS[1], _WIDTHS[2], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(_WIDTHS[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (n, num_classes) logits of (n, 3, s, s) images."""
        x = self.relu(self.bn1(self.conv1(images)))  # (n, 32, s, s)
        x = self.layer3(self.layer2(self.layer1(x)))  # (n, 128, s/4, s/4)
        x = torch.flatten(self.avgpool(x), 1)  # (n, 128)
        return cast(torch.Tensor, self.fc(x))


def _build_stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or in_channels != out_channels:
        shortcut = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False),
            nn.BatchNorm2d(out_channels),
        )
    return nn.Sequential(BasicBlock(in_channels, out_channels, stride, shortcut))
