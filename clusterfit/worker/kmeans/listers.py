"""Who tells an auction how far rows are from centroids: rows of a fit, and raw ones at its end.

K: num_clusters, d: dimensions, n: rows of this rank, m: some of them, T: clusters listed for a row.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from clusterfit.worker.kmeans.arithmetic import choose_arithmetic
from clusterfit.worker.kmeans.assignment import Scorer
from clusterfit.worker.kmeans.exact import measure_listed
from clusterfit.worker.kmeans.problem import Problem
from clusterfit.worker.kmeans.rows import CHUNK_ROWS, RowSource
from clusterfit.worker.kmeans.sizes import choose_sizes


class RowLister:
    """Lists clusters for the rows of a fit, as far as rounded products tell; see `Lister`."""

    def __init__(self, problem: Problem, centroids: torch.Tensor) -> None:
        """Take (K, d) float32 centroids in the rows' frame."""
        self._rows = problem.rows
        self._arithmetic = problem.arithmetic
        self._centroids = centroids

    def list_cheapest(
        self, prices: torch.Tensor, wanted: torch.Tensor, num_listed: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield (m,) places, (m, T) int32 columns and (m, T) float32 squared distances."""
        scorer = Scorer(self._centroids, self._arithmetic, prices)
        for offset, chunk in self._rows.chunks():
            places = wanted[offset : offset + len(chunk)].nonzero()[:, 0]
            if not len(places):
                continue
            factor = chunk.factor if len(places) == len(chunk) else chunk.factor[places]
            norms_sq = self._rows.norms_sq[offset + places]
            for mine, scores in scorer.multiply(factor):
                columns = self._arithmetic.kernel.list_best(scores, num_listed)
                costs = norms_sq[mine, None] - 2 * scores.pick(columns)
                yield offset + places[mine], columns, costs - prices[columns.long()]


class RawLister:
    """Lists clusters for raw rows: rounded products name them, float32 says how far they are."""

    def __init__(
        self, source: RowSource, rows: range, centroids: np.ndarray, device: torch.device
    ) -> None:
        """Take this rank's rows and (K, d) float32 centroids."""
        self._source = source
        self._rows = rows
        mean = centroids.mean(0, dtype=np.float64).astype(np.float32)
        self._mean = torch.from_numpy(mean).to(device)
        self._centroids = torch.from_numpy(centroids).to(device) - self._mean
        self._arithmetic = choose_arithmetic(device, centroids.shape[1])

    def list_cheapest(
        self, prices: torch.Tensor, wanted: torch.Tensor, num_listed: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """See `Lister`."""
        scorer = Scorer(self._centroids, self._arithmetic, prices)
        places = wanted.nonzero()[:, 0]
        for some, rows in self._read(places):
            for block, scores in scorer.multiply(self._arithmetic.prepare(rows)):
                columns = self._arithmetic.kernel.list_best(scores, num_listed)
                yield (
                    some[block],
                    columns,
                    measure_listed(rows[block], self._centroids, columns.long()),
                )

    def _read(self, places: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (places (m,), centred rows (m, d)) of the rows at these places, rising."""
        numbers = places.cpu().numpy() + self._rows.start
        for first in self._rows[::CHUNK_ROWS]:
            last = min(first + CHUNK_ROWS, self._rows.stop)
            low, high = np.searchsorted(numbers, [first, last])
            if low == high:
                continue
            chunk = self._source.read(first, last)
            step = choose_sizes(self._centroids.device).assigned_rows
            for start in range(int(low), int(high), step):
                mine = slice(start, min(start + step, int(high)))
                raw = torch.from_numpy(chunk[numbers[mine] - first])
                yield places[mine], raw.to(self._mean.device) - self._mean
