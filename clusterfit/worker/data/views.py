"""From a decoded image to the square that a network sees.

Images are uint8 (3, H, W) tensors up to the batch; colours and normalisation are the device's work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from clusterfit.config.sections.evaluation import Heads
from clusterfit.config.sections.extraction import CenterView
from clusterfit.config.sections.training import Pretext, Train

_MAX_ASPECT: Final = 8
"""A 1 x 10000 image scaled to a short side of 256 would take 2 GB: longer ones are cut first."""

_RESIZE_RATIO: Final = 256 / 224
"""Resize to crop, as in the usual 256 and 224 pixels."""


class View(Protocol):
    """A loader's part of what the network sees; random ones draw from torch's global state."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return a (3, crop, crop) uint8 view of a (3, H, W) uint8 image."""


def build_center_view(recipe: CenterView) -> View:
    """Scale the short side, cut the middle: nothing random."""
    return _compose(
        v2.Resize(recipe.resize_pixels, antialias=True), v2.CenterCrop(recipe.crop_pixels)
    )


def build_crop_view(crop_pixels: int) -> View:
    """Return the center view that belongs to a training crop of this size."""
    return _compose(
        v2.Resize(round(crop_pixels * _RESIZE_RATIO), antialias=True), v2.CenterCrop(crop_pixels)
    )


def build_pretext_view(recipe: Pretext) -> View:
    """Return a random square crop, perhaps mirrored; the four rotations are made of the batch.

    The crop is square before anything is turned, so that no border betrays the angle.
    """
    return _compose(
        v2.Resize(round(recipe.crop_pixels * _RESIZE_RATIO), antialias=True),
        v2.RandomCrop(recipe.crop_pixels),
        *([v2.RandomHorizontalFlip()] if recipe.horizontal_flip else []),
    )


def build_train_view(recipe: Train) -> View:
    """Random resized crop and flip: what loaders do of VISSL's step-2 augmentation.

    The rest of it, the colours, is `ColorJitter`'s.
    """
    return _compose(*_crop_at_random(recipe, recipe.crop_pixels))


def build_heads_view(recipe: Heads, crop_pixels: int) -> View:
    """Random resized crop and flip: what linear heads are trained on."""
    return _compose(*_crop_at_random(recipe, crop_pixels))


def build_squashed_view(recipe: CenterView) -> View:
    """Scale the short side, then both to the square: nothing is cut off, VISSL's view for SVMs."""
    side = recipe.crop_pixels
    return _compose(
        v2.Resize(recipe.resize_pixels, antialias=True), v2.Resize((side, side), antialias=True)
    )


def rotate_fourfold(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (4 n, 3, s, s) images turned by 0, 90, 180, 270 degrees, and their (4 n,) targets.

    Source: Gidaris et al., arXiv:1803.07728: all four rotations of an image share a batch.
    """
    turned = [torch.rot90(images, quarter, dims=(2, 3)) for quarter in range(4)]
    targets = torch.arange(4, device=images.device).repeat_interleave(len(images))
    return torch.cat(turned), targets


class Normalizer:
    """Images with colours 0..255 -> normalised float32 images on the device."""

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        memory_format: torch.memory_format,
    ) -> None:
        """Keep the three-channel mean and std, in units of 0..1, on the device."""
        self._scale = (1 / (255 * torch.tensor(std))).view(1, 3, 1, 1).to(device)
        self._shift = (-torch.tensor(mean) / torch.tensor(std)).view(1, 3, 1, 1).to(device)
        self._device = device
        self._memory_format = memory_format

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return (n, 3, s, s) float32."""
        images = images.to(self._device, non_blocking=True)
        normalized = (images * self._scale).add_(self._shift)
        return normalized.contiguous(memory_format=self._memory_format)


def choose_memory_format(channels_last: bool) -> torch.memory_format:
    """Return torch's name of a memory order."""
    return torch.channels_last if channels_last else torch.contiguous_format


def _crop_at_random(recipe: Train | Heads, crop_pixels: int) -> list[torch.nn.Module]:
    crop = v2.RandomResizedCrop(crop_pixels, scale=(recipe.crop_min_scale, 1.0), antialias=True)
    return [crop, *([v2.RandomHorizontalFlip()] if recipe.horizontal_flip else [])]


def _compose(*transforms: torch.nn.Module) -> View:
    view: View = v2.Compose([_cut_to_aspect, *transforms])
    return view


def _cut_to_aspect(image: torch.Tensor) -> torch.Tensor:
    height, width = image.shape[-2:]
    limit = _MAX_ASPECT * min(height, width)
    if max(height, width) <= limit:
        return image
    cut: torch.Tensor = functional.center_crop(image, [min(height, limit), min(width, limit)])
    return cut
