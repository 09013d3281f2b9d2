"""The rows of one rank as k-means sees them: centred, rounded, in memory or read in chunks.

N: rows of all ranks, n: rows of a chunk, d: dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import torch

from clusterfit.errors import InvalidDataError
from clusterfit.worker.kmeans.arithmetic import Arithmetic
from clusterfit.worker.kmeans.kernel import Kernel
from clusterfit.worker.kmeans.products import Factor, find_step
from clusterfit.worker.kmeans.pulse import Pulse
from clusterfit.worker.kmeans.ranks import Ranks
from clusterfit.worker.kmeans.rows import CHUNK_ROWS, NOT_FINITE, RowSource
from clusterfit.worker.kmeans.sizes import choose_sizes

_BLOCK_ROWS: Final = 1024

_GRID_BITS: Final = 22
"""Rows are rounded to the largest number / 2^22: finer than float32's products, and coarse enough
that float64 adds 2^30 of them exactly."""

_NORM_BITS: Final = 30
"""Squared norms are rounded to the largest possible one / 2^30: real ones are some hundred times
smaller, so that float64 adds 2^23 to 2^30 of them exactly."""


@dataclass(frozen=True, slots=True)
class Frame:
    """How raw rows become k-means' rows and centroids become raw again; the same on all ranks."""

    mean: torch.Tensor
    """(d,) float32. Distances do not change by it, and what is rounded becomes small."""
    rounder: float
    """Adding and subtracting it in float32 rounds to the grid."""
    norm_step: float
    """The grid of squared norms."""

    def enter(self, raw: torch.Tensor, rows: torch.Tensor, kernel: Kernel) -> torch.Tensor:
        """Write raw (n, d) float32 rows, centred and on the grid, to `rows`.

        Returns their (n,) float32 squared norms, on a grid as well.
        """
        norms_sq = kernel.enter_rows(raw, self.mean, self.rounder, rows)
        return (norms_sq.double() / self.norm_step).round_().mul_(self.norm_step).float()

    def reenter(self, centroids: torch.Tensor) -> torch.Tensor:
        """Return (K, d) float32 centroids of raw coordinates, centred."""
        return centroids - self.mean.to(centroids.device)

    def leave(self, centroids: torch.Tensor) -> torch.Tensor:
        """Return centroids (K, d) float32 in raw coordinates."""
        return centroids + self.mean.to(centroids.device)


def find_frame(source: RowSource, start: int, stop: int, ranks: Ranks, pulse: Pulse) -> Frame:
    """Return the frame of all ranks' rows, of which this one reads start..stop-1.

    Raises:
        InvalidDataError: when a number is not finite.
    """
    total = torch.zeros(source.dim, dtype=torch.float64)
    largest = 0.0
    with pulse.loop("range of the rows", stop - start) as beat:
        for first in range(start, stop, _BLOCK_ROWS):
            beat(first - start)
            chunk = torch.from_numpy(source.read(first, min(first + _BLOCK_ROWS, stop)))
            total += chunk.sum(0, dtype=torch.float32).double()
            low, high = torch.aminmax(chunk)
            largest = max(largest, -float(low), float(high)) if bool(low <= high) else math.nan
            if not math.isfinite(largest):
                break
    largest = ranks.find_maximum(largest if math.isfinite(largest) else math.inf)
    if not math.isfinite(largest):
        raise InvalidDataError(NOT_FINITE)
    ranks.add(total)
    exponent = math.frexp(2 * largest)[1] if largest else 0  # |row - mean| < 2^exponent
    # Only rounded to 8 bits: it need not be exact, and so it does not depend on who added what.
    coarse = 2.0 ** (exponent - 8)
    mean = (total / source.num_rows / coarse).round() * coarse
    most = source.dim.bit_length() + 2 * exponent  # |row - mean|^2 < 2^most
    return Frame(
        mean.float(), 1.5 * 2.0 ** (23 + exponent - _GRID_BITS), 2.0 ** (most - _NORM_BITS)
    )


class Chunk:
    """Some rows: as they are added up, and as they are multiplied."""

    def __init__(
        self, rows: torch.Tensor, arithmetic: Arithmetic, factor: Factor | None = None
    ) -> None:
        """Take (n, d) rows on their grid; what they are multiplied as is made when it is used."""
        self.rows = rows
        self._arithmetic = arithmetic
        self._factor = factor

    def __len__(self) -> int:
        """Return n."""
        return len(self.rows)

    def __getitem__(self, key: slice) -> Chunk:
        """Return some rows, views of these."""
        factor = None if self._factor is None else self._factor[key]
        return Chunk(self.rows[key], self._arithmetic, factor)

    @property
    def factor(self) -> Factor:
        """The rows as they are multiplied."""
        if self._factor is None:
            self._factor = self._arithmetic.prepare(self.rows)
        return self._factor

    def renew(self) -> None:
        """Note that the rows are others now."""
        if self._factor is not None and self._arithmetic.copies:
            self._factor.fill(self._arithmetic.prepare(self.rows))

    def copy(self) -> Chunk:
        """Return the same rows in memory of their own."""
        return Chunk(self.rows.clone(), self._arithmetic)

    @staticmethod
    def join(chunks: list[Chunk]) -> Chunk:
        """Return the rows of some chunks, one after another, ready to be multiplied."""
        joined = Chunk(torch.cat([chunk.rows for chunk in chunks]), chunks[0]._arithmetic)
        _ = joined.factor
        return joined


class RankRows:
    """This rank's contiguous rows, in memory where they fit."""

    def __init__(
        self,
        start: int,
        stop: int,
        dim: int,
        prepare: Callable[[int, int], Chunk],
        kept: Chunk | None,
        norms_sq: torch.Tensor,
    ) -> None:
        """Use `prepare_rows` or `thin`."""
        self.start = start
        self.stop = stop
        self.num_rows = stop - start
        self.dim = dim
        self.norms_sq = norms_sq
        """(n,) float32, of the rounded rows: objectives are then those of rows that exist."""
        self._prepare = prepare
        self._kept = kept

    @property
    def is_resident(self) -> bool:
        """Whether the rows are kept, not read anew for each pass."""
        return self._kept is not None

    def chunks(self) -> Iterator[tuple[int, Chunk]]:
        """Yield (offset in this rank's rows, (n, d) rows), in order."""
        step = choose_sizes(self.norms_sq.device).chunk_rows if self.is_resident else CHUNK_ROWS
        for offset in range(0, self.num_rows, step):
            end = min(offset + step, self.num_rows)
            if self._kept is not None:
                yield offset, self._kept[offset:end]
            else:
                yield offset, self._prepare(self.start + offset, self.start + end)

    @property
    def kept(self) -> Chunk:
        """All rows of this rank, where they are resident."""
        assert self._kept is not None
        return self._kept

    def thin(self, step: int, pulse: Pulse) -> RankRows:
        """Return every step-th row (by its number among all ranks' rows), kept in memory."""
        if step == 1 and self._kept is not None:
            return self
        first = -self.start % step
        kept = []
        with pulse.loop("sample for a start", self.num_rows) as beat:
            for offset, chunk in self.chunks():
                beat(offset)
                # Copies: a view would keep the whole chunk that it is of.
                kept.append(chunk[(first - offset) % step :: step].copy())
        start = -(-self.start // step)
        rows = Chunk.join(kept) if kept else self._prepare(self.start, self.start)
        norms_sq = self.norms_sq[first::step]
        return RankRows(start, start + len(rows), self.dim, self._prepare, rows, norms_sq)

    def take(self, row_numbers: torch.Tensor, ranks: Ranks) -> torch.Tensor:
        """Return the rows with these numbers, of whatever rank, as (m, d) float32 on every rank."""
        taken = torch.zeros(len(row_numbers), self.dim, device=self.norms_sq.device)
        ours = (row_numbers >= self.start) & (row_numbers < self.stop)
        places = ours.nonzero()[:, 0]
        numbers = row_numbers[places]
        if self._kept is not None:
            taken[places] = self._kept.rows[numbers - self.start].float()
        else:
            for place, number in zip(places.tolist(), numbers.tolist(), strict=True):
                taken[place] = self._prepare(number, number + 1).rows[0]
        ranks.add(taken)
        return taken


def prepare_rows(
    source: RowSource,
    frame: Frame,
    arithmetic: Arithmetic,
    start: int,
    stop: int,
    is_resident: bool,
    pulse: Pulse,
) -> RankRows:
    """Return this rank's rows start..stop-1; where resident, they are read now and kept."""

    def prepare(first: int, end: int) -> Chunk:
        prepared = torch.empty(
            end - first, source.dim, dtype=arithmetic.dtype, device=arithmetic.device
        )
        for block in range(first, end, _BLOCK_ROWS):  # what fits a cache is worked on there
            raw = torch.from_numpy(source.read(block, min(block + _BLOCK_ROWS, end)))
            frame.enter(raw, prepared[block - first :][: len(raw)], arithmetic.kernel)
        return Chunk(prepared, arithmetic)

    kept = _allocate(stop - start, source.dim, arithmetic) if is_resident else None
    norms_sq = torch.empty(stop - start, device=arithmetic.device)
    scratch = torch.empty(_BLOCK_ROWS, source.dim, dtype=arithmetic.dtype, device=arithmetic.device)
    with pulse.loop("rows", stop - start) as beat:
        for first in range(start, stop, _BLOCK_ROWS):
            beat(first - start)
            raw = torch.from_numpy(source.read(first, min(first + _BLOCK_ROWS, stop)))
            mine = slice(first - start, first - start + len(raw))
            block = Chunk(scratch[: len(raw)], arithmetic) if kept is None else kept[mine]
            norms_sq[mine] = frame.enter(raw, block.rows, arithmetic.kernel)
            block.renew()
    return RankRows(start, stop, source.dim, prepare, kept, norms_sq)


def _allocate(num_rows: int, dim: int, arithmetic: Arithmetic) -> Chunk:
    def make(*shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype, device=arithmetic.device)

    if arithmetic.copies:
        rows = make(num_rows, dim, dtype=arithmetic.dtype)
        numbers = make(num_rows, dim, dtype=arithmetic.product_dtype)
        return Chunk(rows, arithmetic, Factor(numbers, make(num_rows, dtype=torch.float32)))
    missing = -dim % find_step(arithmetic.dtype, arithmetic.device)
    padded = make(num_rows, dim + missing, dtype=arithmetic.dtype)
    padded[:, dim:] = 0
    return Chunk(padded[:, :dim], arithmetic, Factor(padded))
