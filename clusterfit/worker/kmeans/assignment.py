"""The nearest centroid of each row: a matrix product a block, and the best of each of its rows.

K: num_clusters, d: dimensions, n: rows of a chunk, T: columns listed for a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch

from clusterfit.worker.kmeans.arithmetic import MIN_ROUNDED_DIM, Arithmetic
from clusterfit.worker.kmeans.kernel import BestTwo
from clusterfit.worker.kmeans.native import LANES, NativeKernel
from clusterfit.worker.kmeans.products import Factor, Scores, find_step
from clusterfit.worker.kmeans.sizes import choose_sizes

_MIN_BLOCK_ROWS: Final = 256

_PRODUCTS_OF: Final = {torch.int8: torch.int32}


class Scorer:
    """Rounded centroids, ready to be multiplied with rows."""

    def __init__(
        self, centroids: torch.Tensor, arithmetic: Arithmetic, prices: torch.Tensor | None = None
    ) -> None:
        """Take (K, d) float32 centroids; they are rounded to the products' dtype.

        With (K,) float32 prices that is nearest of which squared distance plus price is least.
        """
        self._kernel = arithmetic.kernel
        self._padded = arithmetic.prepare(_pad(centroids, arithmetic))
        self.factor = self._padded[: len(centroids)]  # (K, d)
        self.bias = self._compute_bias(centroids)  # (K,)
        if prices is not None:
            self.bias -= prices / 2
        self._short = self._transpose() if self._takes_short_rows() else None
        dtype = _PRODUCTS_OF.get(arithmetic.product_dtype, arithmetic.product_dtype)
        num_clusters = len(centroids)
        sizes = choose_sizes(arithmetic.device)
        most_rows = sizes.product_bytes // (num_clusters * dtype.itemsize)
        block_rows = max(_MIN_BLOCK_ROWS, min(sizes.most_block_rows, most_rows))
        self.block_rows = 1 << (block_rows.bit_length() - 1)
        self._products = torch.empty(
            self.block_rows, len(self._padded), dtype=dtype, device=arithmetic.device
        )

    def multiply(self, rows: Factor) -> Iterator[tuple[slice, Scores]]:
        """Yield (rows of a block, their (n, K) scores); the next block overwrites them."""
        for first in range(0, len(rows), self.block_rows):
            mine = slice(first, min(first + self.block_rows, len(rows)))
            block = rows[mine]
            products = self._products[: len(block)]
            block.multiply(self._padded, products)
            scored = products[:, : len(self.factor)]
            yield mine, Scores(scored, self.bias, block.steps, self.factor.steps)

    def search(self, rows: Factor) -> Iterator[tuple[slice, Scores | None, BestTwo]]:
        """Yield (rows of a block, scores or None, best two) of (n, d) rows.

        Rows of a few dimensions are searched without products.
        """
        if self._short is None or not isinstance(self._kernel, NativeKernel):
            for mine, scores in self.multiply(rows):
                yield mine, scores, self._kernel.find_best_two(scores)
            return
        for first in range(0, len(rows), self.block_rows):
            mine = slice(first, min(first + self.block_rows, len(rows)))
            yield mine, None, self._kernel.search(rows.numbers[mine].contiguous(), *self._short)

    def assign(self, rows: Factor) -> torch.Tensor:
        """Return the (n,) int64 nearest centroids of (n, d) rows, as far as scores tell."""
        assignments = torch.empty(len(rows), dtype=torch.int64, device=rows.numbers.device)
        for mine, _, (columns, _, _) in self.search(rows):
            assignments[mine] = columns
        return assignments

    def list_best(self, rows: Factor, num_listed: int) -> torch.Tensor:
        """Return the (n, T) int32 centroids that score highest, rising in each row."""
        device = rows.numbers.device
        lists = torch.empty(len(rows), num_listed, dtype=torch.int32, device=device)
        for mine, scores in self.multiply(rows):
            lists[mine] = self._kernel.list_best(scores, num_listed)
        return lists

    def _compute_bias(self, centroids: torch.Tensor) -> torch.Tensor:
        """Return (K,): |c|^2/2 - r.c for each c and what it is rounded to, r.

        With it a score is x.c - |c|^2/2 + (r - c).(x - c): what rounding adds is small for the
        rows near a centroid, which the true -|c|^2/2 would not make it.
        """
        bias = torch.empty(len(centroids), device=centroids.device)
        step = max(1, choose_sizes(centroids.device).elements // centroids.shape[1])
        for start in range(0, len(centroids), step):
            some = slice(start, start + step)
            wide = centroids[some]
            rounded = self.factor[some].widen()[:, : wide.shape[1]]
            bias[some] = ((0.5 * wide - rounded) * wide).sum(1, dtype=torch.float64).float()
        return bias

    def _takes_short_rows(self) -> bool:
        numbers = self.factor.numbers
        is_short = numbers.dtype == torch.float32 and numbers.shape[1] < MIN_ROUNDED_DIM
        return is_short and isinstance(self._kernel, NativeKernel)

    def _transpose(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (d, K) centroids and (K,) bias, K rounded up to LANES; the added never win."""
        num_clusters, dim = self.factor.numbers.shape
        padded = -(-num_clusters // LANES) * LANES
        centroids = torch.zeros(dim, padded)
        centroids[:, :num_clusters] = self.factor.numbers.t()
        bias = torch.full((padded,), -torch.inf)
        bias[:num_clusters] = self.bias
        return centroids, bias


def _pad(centroids: torch.Tensor, arithmetic: Arithmetic) -> torch.Tensor:
    """Return the centroids, on a GPU with zeros up to a number of them that it multiplies fast."""
    missing = -len(centroids) % find_step(arithmetic.product_dtype, arithmetic.device)
    return torch.nn.functional.pad(centroids, (0, 0, 0, missing)) if missing else centroids
