"""Rows as k-means sees them: projected and normalised, a chunk at a time.

N: rows, D: dimensions as extracted, d: dimensions that k-means sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch

from clusterfit.artifacts.parts import FeatureTable
from clusterfit.config.sections.clustering import Cluster
from clusterfit.errors import InvalidDataError
from clusterfit.worker.kmeans.pulse import Pulse
from clusterfit.worker.kmeans.ranks import Ranks

CHUNK_ROWS: Final = 16384

NOT_FINITE: Final = (
    "features: got numbers that are not finite; `clusterfit artifacts verify` names a damaged part "
    "to delete, then run extract again"
)

_MIN_NORM: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Projection:
    """A principal component analysis: rows minus `mean`, times `components`."""

    mean: np.ndarray
    """(D,) float32."""
    components: np.ndarray
    """(D, d) float32; scaled by 1/sqrt(variance) where it whitens."""

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """Return (n, d) float32."""
        projected: np.ndarray = (rows - self.mean) @ self.components
        return projected


def fit_projection(
    table: FeatureTable,
    pca_dim: int,
    whiten: bool,
    ranks: Ranks | None = None,
    pulse: Pulse | None = None,
) -> Projection:
    """Return the leading principal components of a table, computed in float64.

    Each rank reads its share of the rows; what they add up is (D,) and (D, D). The covariance is of
    the rows minus their mean, once: centring again after projecting, as VISSL's step did, is
    without effect at best and wrong on other partitions.

    Raises:
        InvalidDataError: when there are fewer dimensions, or fewer rows, than components.
    """
    ranks = ranks or Ranks()
    most = min(table.feature_dim, table.num_rows - 1)
    if pca_dim > most:
        raise InvalidDataError(
            f"cluster.pcaDim: got {pca_dim}, want at most {most} for "
            f"{table.num_rows} rows of {table.feature_dim} features"
        )
    total = np.zeros(table.feature_dim)
    products = np.zeros((table.feature_dim, table.feature_dim))
    start, stop = ranks.share(table.num_rows)
    with (pulse or Pulse()).loop("principal components", stop - start) as beat:
        for first, chunk in table.chunks(start, stop, CHUNK_ROWS):
            beat(first - start)
            rows = chunk.astype(np.float64)
            total += rows.sum(0)
            products += rows.T @ rows
    ranks.add(torch.from_numpy(total), torch.from_numpy(products))
    projection = _decompose(total / table.num_rows, products / table.num_rows, pca_dim, whiten)
    # Machines of different kinds round differently, and all ranks must project alike.
    ranks.take_rank_0s(torch.from_numpy(projection.mean), torch.from_numpy(projection.components))
    return projection


def _decompose(mean: np.ndarray, products: np.ndarray, pca_dim: int, whiten: bool) -> Projection:
    """Return the components of rows with this mean (D,) and mean outer product (D, D)."""
    covariance = products - np.outer(mean, mean)  # (D, D)
    variances, vectors = np.linalg.eigh(covariance)
    variances, vectors = variances[::-1][:pca_dim], vectors[:, ::-1][:, :pca_dim]
    # The sign of an eigenvector is arbitrary: its largest entry is made positive.
    largest = vectors[np.abs(vectors).argmax(0), np.arange(pca_dim)]
    vectors = vectors * np.sign(largest)
    if whiten:
        if variances[-1] <= 1e-10 * variances[0]:
            rank = int((variances > 1e-10 * variances[0]).sum())
            raise InvalidDataError(
                f"cluster.pcaDim: got {pca_dim}, but the features vary in only {rank} directions; "
                f"whiten at most {rank}"
            )
        vectors = vectors / np.sqrt(variances)
    components = np.ascontiguousarray(vectors, np.float32)
    return Projection(mean.astype(np.float32), components)


class RowSource(Protocol):
    """Rows that are read when they are needed: all that an engine sees of them."""

    num_rows: int
    dim: int

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows start..stop-1 as (n, d) float32, C-contiguous."""


class ArrayRows:
    """Rows that are in memory already."""

    def __init__(self, array: np.ndarray) -> None:
        """Take (N, d) float32."""
        self._array = array
        self.num_rows, self.dim = array.shape

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows start..stop-1; see `RowSource.read`."""
        return np.ascontiguousarray(self._array[start:stop], np.float32)


class Rows:
    """The rows of one partition, prepared as k-means sees them."""

    def __init__(self, table: FeatureTable, config: Cluster, projection: Projection | None) -> None:
        """Prepare rows of a table: project them, then normalise them, where asked."""
        self._table = table
        self._normalize = config.normalize
        self._projection = projection
        self.num_rows = table.num_rows
        self.dim = table.feature_dim if projection is None else projection.components.shape[1]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows start..stop-1 as (n, d) float32, C-contiguous."""
        rows = self._table.read_rows(start, stop)
        if self._projection is not None:
            rows = self._projection.apply(rows)
        if self._normalize:
            norms = np.linalg.norm(rows, axis=1, keepdims=True)
            rows = rows / np.maximum(norms, _MIN_NORM)  # a row of zeros stays one
        return np.ascontiguousarray(rows, np.float32)


class SampledRows:
    """Some rows of a source, by number."""

    def __init__(self, source: RowSource, row_numbers: np.ndarray) -> None:
        """Take the rows with these numbers, rising."""
        self._source = source
        self._row_numbers = row_numbers
        self.num_rows = len(row_numbers)
        self.dim = source.dim

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows start..stop-1 of the sample; see `RowSource.read`."""
        wanted = self._row_numbers[start:stop]
        taken = np.empty((len(wanted), self.dim), np.float32)
        if not len(wanted):
            return taken
        for first in range(int(wanted[0]), int(wanted[-1]) + 1, CHUNK_ROWS):
            end = min(first + CHUNK_ROWS, int(wanted[-1]) + 1)
            low, high = np.searchsorted(wanted, [first, end])
            if low < high:
                taken[low:high] = self._source.read(first, end)[wanted[low:high] - first]
        return taken


def read_all(source: RowSource, pulse: Pulse | None = None) -> np.ndarray:
    """Return all (N, d) float32 rows in memory.

    Raises:
        InvalidDataError: when a number is not finite.
    """
    rows = np.empty((source.num_rows, source.dim), np.float32)
    with (pulse or Pulse()).loop("rows", source.num_rows) as beat:
        for first in range(0, source.num_rows, CHUNK_ROWS):
            beat(first)
            end = min(first + CHUNK_ROWS, source.num_rows)
            rows[first:end] = source.read(first, end)
            if not np.isfinite(rows[first:end]).all():
                raise InvalidDataError(NOT_FINITE)
    return rows


def read_numbers(source: RowSource, row_numbers: range) -> np.ndarray:
    """Return (m, d) float32 rows, few and far between: each is read alone."""
    rows = [source.read(number, number + 1) for number in row_numbers]
    return np.concatenate([np.empty((0, source.dim), np.float32), *rows])


def read_evenly(source: RowSource, start: int, stop: int, num_wanted: int) -> np.ndarray:
    """Return at most so many (m, d) float32 rows from all over start..stop-1."""
    return read_numbers(source, range(start, stop, max(1, -(-(stop - start) // num_wanted))))


def draw_row_numbers(num_rows: int, num_clusters: int, seed: int) -> np.ndarray:
    """Return (K,) rising numbers of the rows that `init: random` begins at, drawn by the seed."""
    drawn = np.random.default_rng([seed, 1]).choice(num_rows, num_clusters, replace=False)
    return np.sort(drawn)


def sample(source: RowSource, num_wanted: int, seed: int) -> RowSource:
    """Return rows drawn by the seed, or the source where it has no more than are wanted."""
    if num_wanted >= source.num_rows:
        return source
    drawn = np.random.default_rng(seed).choice(source.num_rows, num_wanted, replace=False)
    return SampledRows(source, np.sort(drawn))
