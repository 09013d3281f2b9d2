"""The rows of one rank as k-means multiplies them: centred, rounded, in memory or read in chunks.

N: rows of all ranks, n: rows of a chunk, d: dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch

from clusterfit.errors import InvalidDataError
from clusterfit.worker.kmeans.arithmetic import Arithmetic
from clusterfit.worker.kmeans.ranks import Ranks
from clusterfit.worker.kmeans.rows import CHUNK_ROWS, RowSource

_GRID_BITS: Final = 22
"""Rows are rounded to the largest number / 2^22: finer than float32's products, and coarse enough
that float64 adds 2^30 of them exactly."""


@dataclass(frozen=True, slots=True)
class Frame:
    """How raw rows become k-means' rows and centroids become raw again; the same on all ranks."""

    mean: torch.Tensor
    """(d,) float32. Distances do not change by it, and what is rounded becomes small."""
    rounder: float
    """Adding and subtracting it in float32 rounds to the grid."""

    def enter(self, raw: torch.Tensor) -> torch.Tensor:
        """Return raw (n, d) float32 rows centred and on the grid, as float32."""
        return (raw - self.mean).add_(self.rounder).sub_(self.rounder)

    def leave(self, centroids: torch.Tensor) -> torch.Tensor:
        """Return centroids (K, d) float32 in raw coordinates."""
        return (centroids.double() + self.mean.double()).float()


def find_frame(source: RowSource, start: int, stop: int, ranks: Ranks) -> Frame:
    """Return the frame of all ranks' rows, of which this one reads start..stop-1.

    Raises:
        InvalidDataError: when a number is not finite.
    """
    total = torch.zeros(source.dim, dtype=torch.float64)
    largest = 0.0
    for first in range(start, stop, CHUNK_ROWS):
        chunk = torch.from_numpy(source.read(first, min(first + CHUNK_ROWS, stop)))
        total += chunk.sum(0, dtype=torch.float32).double()
        low, high = torch.aminmax(chunk)
        largest = max(largest, -float(low), float(high)) if bool(low <= high) else math.nan
        if not math.isfinite(largest):
            break
    largest = ranks.find_maximum(largest if math.isfinite(largest) else math.inf)
    if not math.isfinite(largest):
        raise InvalidDataError("features: got numbers that are not finite; run extract again")
    ranks.add(total)
    exponent = math.frexp(2 * largest)[1] if largest else 0  # |row - mean| < 2^exponent
    # Only rounded to 8 bits: it need not be exact, and so it does not depend on who added what.
    coarse = 2.0 ** (exponent - 8)
    mean = (total / source.num_rows / coarse).round() * coarse
    return Frame(mean.float(), 1.5 * 2.0 ** (23 + exponent - _GRID_BITS))


class RankRows:
    """This rank's contiguous rows, in memory where they fit."""

    def __init__(
        self,
        source: RowSource,
        frame: Frame,
        arithmetic: Arithmetic,
        start: int,
        stop: int,
        is_resident: bool,
    ) -> None:
        """Prepare rows start..stop-1; where resident, they are read now and kept."""
        self.start = start
        self.stop = stop
        self.frame = frame
        self.dim = source.dim
        self.num_rows = stop - start
        self._source = source
        self._arithmetic = arithmetic
        self._kept: torch.Tensor | None = None
        self.norms_sq = torch.empty(self.num_rows, device=arithmetic.device)
        if is_resident:
            kept = torch.empty(
                self.num_rows, self.dim, dtype=arithmetic.dtype, device=arithmetic.device
            )
            for offset, chunk in self._read():
                kept[offset : offset + len(chunk)] = chunk
            self._kept = kept
        else:
            for _ in self._read():
                pass

    def chunks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (offset in this rank's rows, (n, d) rows), in order."""
        if self._kept is None:
            yield from self._read()
            return
        for offset in range(0, self.num_rows, CHUNK_ROWS):
            yield offset, self._kept[offset : offset + CHUNK_ROWS]

    def take(self, row_numbers: torch.Tensor, ranks: Ranks) -> torch.Tensor:
        """Return the rows with these numbers, of whatever rank, as (m, d) float32 on every rank."""
        taken = torch.zeros(len(row_numbers), self.dim, device=self._arithmetic.device)
        ours = (row_numbers >= self.start) & (row_numbers < self.stop)
        places = ours.nonzero()[:, 0]
        for place, number in zip(places.tolist(), row_numbers[places].tolist(), strict=True):
            taken[place] = self._get(number)
        ranks.add(taken)
        return taken

    def _get(self, number: int) -> torch.Tensor:
        if self._kept is not None:
            return self._kept[number - self.start]
        return self._prepare(number, number + 1)[0]

    def _read(self) -> Iterator[tuple[int, torch.Tensor]]:
        for first in range(self.start, self.stop, CHUNK_ROWS):
            chunk = self._prepare(first, min(first + CHUNK_ROWS, self.stop))
            offset = first - self.start
            # Of the rounded rows: then objectives are those of rows that exist, and never negative.
            self.norms_sq[offset : offset + len(chunk)] = chunk.float().square_().sum(1)
            yield offset, chunk

    def _prepare(self, start: int, stop: int) -> torch.Tensor:
        raw = torch.from_numpy(self._source.read(start, stop))
        entered = self.frame.enter(raw).to(self._arithmetic.dtype)
        return entered.to(self._arithmetic.device)
