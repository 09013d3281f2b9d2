"""The nearest centroid of each row: a matrix product a block, and the best of each of its rows.

The nearest centroid c of x maximises the score x.c - |c|^2/2, so the rows' own norms never matter.
K: num_clusters, d: dimensions, n: rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch

from clusterfit.worker.kmeans.arithmetic import MIN_BF16_DIM, Arithmetic
from clusterfit.worker.kmeans.native import LANES, BestTwo

_BLOCK_ELEMENTS: Final = 1 << 23
"""Scores of one block: 16 MB of bfloat16, which a server CPU's last-level cache holds."""


class Scorer:
    """Rounded centroids, ready to be multiplied with rows."""

    def __init__(self, centroids: torch.Tensor, arithmetic: Arithmetic) -> None:
        """Take (K, d) centroids; they are rounded to the arithmetic's dtype."""
        self._arithmetic = arithmetic
        self.matrix = centroids.to(arithmetic.dtype)  # (K, d)
        # Of the rounded centroids: scores are then those of points that exist, if slightly moved.
        self.bias = self.matrix.double().square().sum(1).mul_(-0.5).float()  # (K,)
        self._short = self._transpose() if self._takes_short_rows() else None
        num_clusters = len(centroids)
        block_rows = max(256, min(8192, _BLOCK_ELEMENTS // num_clusters))
        self.block_rows = 1 << (block_rows.bit_length() - 1)
        self._products = torch.empty(
            self.block_rows, num_clusters, dtype=arithmetic.dtype, device=arithmetic.device
        )

    def multiply(self, rows: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (first row, (n, K) products) of each block; the next block overwrites them."""
        for first in range(0, len(rows), self.block_rows):
            block = rows[first : first + self.block_rows]
            products = self._products[: len(block)]
            torch.mm(block, self.matrix.t(), out=products)
            yield first, products

    def search(self, rows: torch.Tensor) -> Iterator[tuple[int, torch.Tensor | None, BestTwo]]:
        """Yield (first row, products or None, best two) of each block of the (n, d) rows.

        Rows of a few dimensions are searched without products.
        """
        kernel = self._arithmetic.kernel
        if self._short is None or kernel is None:
            for first, products in self.multiply(rows):
                yield first, products, self._arithmetic.find_best_two(products, self.bias)
            return
        for first in range(0, len(rows), self.block_rows):
            block = rows[first : first + self.block_rows].contiguous()
            yield first, None, kernel.search(block, *self._short)

    def assign(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the (n,) int64 nearest centroids of (n, d) rows."""
        assignments = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
        for first, _, (columns, _, _) in self.search(rows):
            assignments[first : first + len(columns)] = columns
        return assignments

    def _takes_short_rows(self) -> bool:
        is_float = self._arithmetic.dtype == torch.float32
        has_kernel = self._arithmetic.kernel is not None
        return is_float and has_kernel and self.matrix.shape[1] < MIN_BF16_DIM

    def _transpose(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (d, K) centroids and (K,) bias, K rounded up to LANES; the added never win."""
        num_clusters, dim = self.matrix.shape
        padded = -(-num_clusters // LANES) * LANES
        centroids = torch.zeros(dim, padded)
        centroids[:, :num_clusters] = self.matrix.t()
        bias = torch.full((padded,), -torch.inf)
        bias[:num_clusters] = self.bias
        return centroids, bias
