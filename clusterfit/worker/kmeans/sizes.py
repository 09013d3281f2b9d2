"""How much is worked on at a time: what a CPU's caches hold, or what keeps a GPU busy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of the pieces that one operation takes on one kind of device."""

    product_bytes: int
    """Products of a block of rows and all centroids."""
    most_block_rows: int
    """Rows of such a block, where centroids are few."""
    chunk_rows: int
    """Rows in memory that are assigned before they are added up."""
    assigned_rows: int
    """Raw rows that are centred, multiplied and compared at the end."""
    elements: int
    """Numbers of centroids, sums, or pairs of rows and centroids that are widened at once."""


_CPU: Final = Sizes(
    product_bytes=1 << 24,  # a server's last-level cache holds them
    most_block_rows=1 << 13,
    chunk_rows=1 << 14,
    assigned_rows=1 << 11,
    elements=1 << 17,  # fresh memory costs more than the sums
)

_GPU: Final = Sizes(
    product_bytes=1 << 29,  # of 16,000 centroids 16384 rows: enough to fill the largest
    most_block_rows=1 << 17,
    chunk_rows=1 << 17,
    assigned_rows=1 << 14,
    elements=1 << 23,
)


def choose_sizes(device: torch.device) -> Sizes:
    """Return the sizes for a kind of device."""
    return _CPU if device.type == "cpu" else _GPU
