"""What a rank adds up between two lines of metrics."""

from __future__ import annotations

import time

import torch


class EpochSums:
    """What this rank has seen since the epoch, or this process, began."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)  # loss, correct, images
        self.unreadable: dict[int, str] = {}  # sample index -> why
        self._num_images = 0
        self._start = time.monotonic()

    def add(self, sums: torch.Tensor, num_images: int) -> None:
        """Count one step: this rank's sums, and the images of all ranks."""
        self.sums += sums
        self._num_images += num_images

    def images_per_second(self) -> float:
        """Return the pace of all ranks together."""
        return self._num_images / (time.monotonic() - self._start)
