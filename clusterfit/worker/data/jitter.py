"""Random changes of colour, for a whole batch at once, on the device.

They are most of the work of a training view (docs/benchmarks.md, "Loading images"), and loaders
are what GPUs wait for. So a loader only draws the random numbers that belong to an image, and the
device does the work.

n: images; s: their side. Colours are 0..255 throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch

_LUMA: Final = (0.299, 0.587, 0.114)
"""Share of red, green and blue in the brightness that an eye sees (ITU-R BT.601)."""

_WHITE: Final = 255.0
_CONTRAST: Final = 1
_SATURATION: Final = 2
_HUE: Final = 3
"""Positions of the changes among strengths and draws; brightness is 0."""

_STARTS: Final = (5.0, 3.0, 1.0)
"""Where red, green and blue begin to rise on the circle of hues, in sextants before its start."""


class ColorJitter:
    """Brightness, contrast, saturation and hue of each image, changed in an order of its own.

    Semantics are torchvision's `ColorJitter`, in float32 and without rounding between the changes:
    factors are uniform in 1 - strength .. 1 + strength, hues turn by -strength .. strength of the
    circle, colours end at black and white.
    """

    def __init__(self, strengths: Sequence[float], device: torch.device) -> None:
        """Keep the (4,) strengths of brightness, contrast, saturation and hue; zeros: none."""
        *factors, hue = strengths
        self._low = torch.tensor([*(max(0.0, 1 - strength) for strength in factors), -hue])
        self._high = torch.tensor([*(1 + strength for strength in factors), hue])
        self._blends = any(factors)
        self._turns = hue > 0
        self._device = device
        # Here and not for each batch: a constant that is sent makes the host wait for the device.
        self._luma = torch.tensor([_LUMA], device=device)
        self._starts = torch.tensor(_STARTS, device=device).view(1, 3, 1, 1)

    @property
    def num_draws(self) -> int:
        """How many numbers in 0..1 each image needs: how much, and when, of each change."""
        return 2 * len(self._low) if self._blends or self._turns else 0

    def __call__(self, images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Return (n, 3, s, s) images on the device, float32 where their colours were changed.

        Args:
            images: (n, 3, s, s) uint8.
            draws: (n, num_draws) float32, uniform in 0..1, on the CPU.
        """
        images = images.to(self._device, non_blocking=True)
        if not self.num_draws:
            return images
        draws, moments = draws.chunk(2, dim=1)
        amounts = self._low + draws * (self._high - self._low)  # (n, 4)
        order = moments[:, :_HUE].argsort(1)  # (n, 3): which blend is the first, second, third
        is_before = (moments < moments[:, _HUE:]) & self._turns
        factors = [
            amounts.where(chosen, 1).gather(1, order)  # 1 leaves an image as it is
            for chosen in (is_before, ~is_before)
        ]
        targets = [(order == change).float() for change in (_CONTRAST, _SATURATION)]
        plan = torch.cat([*factors, *targets, amounts[:, _HUE:]], 1)[..., None, None, None]
        plan = plan.to(self._device, non_blocking=True)
        before, after, to_mean, to_grey, turns = plan.split([3, 3, 3, 3, 1], 1)

        images = images.float()
        if self._blends and self._turns:
            images = self._blend(images, before, to_mean, to_grey)
        if self._turns:
            images = self._turn_hues(images, turns[:, 0])
        if self._blends:
            images = self._blend(images, after, to_mean, to_grey)
        return images

    def _blend(
        self,
        images: torch.Tensor,
        factors: torch.Tensor,
        to_mean: torch.Tensor,
        to_grey: torch.Tensor,
    ) -> torch.Tensor:
        """Blend images, overwriting them, with their mean grey, their greyscale or else black.

        Factors and choices are (n, 3, 1, 1, 1): of the first, second and third blend.
        """
        for position in range(3):
            grey = torch.matmul(self._luma, images.flatten(2)).view(-1, 1, *images.shape[2:])
            mean = grey.mean((2, 3), keepdim=True)
            target = torch.addcmul(mean * to_mean[:, position], grey, to_grey[:, position])
            images.lerp_(target, 1 - factors[:, position]).clamp_(0, _WHITE)
        return images

    def _turn_hues(self, images: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
        """Turn each image's hues by (n, 1, 1, 1) of the circle; value and chroma stay.

        Sources: A. R. Smith, Color gamut transform pairs, SIGGRAPH 1978, for the hue; the way back
        is the closed form of the same hexagon, one trapezoid a channel.
        """
        red, green, blue = images.split(1, dim=1)  # each (n, 1, s, s)
        value = images.amax(1, keepdim=True)
        chroma = value - images.amin(1, keepdim=True)
        scale = 1 / chroma.where(chroma > 0, 1)
        sextant = torch.where(
            value == red,
            (green - blue) * scale,
            torch.where(value == green, 2 + (blue - red) * scale, 4 + (red - green) * scale),
        )
        place = (sextant + 6 * turns + self._starts).remainder_(6)  # (n, 3, s, s)
        height = place.sub_(2).abs_().clamp_(1, 2)  # 2 minus that of the trapezoid
        return torch.addcmul(value - 2 * chroma, chroma, height)
