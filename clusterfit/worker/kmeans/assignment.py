"""The nearest centroid of each row: a matrix product a block, and the best of each of its rows.

The nearest centroid c of x maximises the score x.c - |c|^2/2, so the rows' own norms never matter.
K: num_clusters, d: dimensions, n: rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch

from clusterfit.worker.kmeans.arithmetic import Arithmetic
from clusterfit.worker.kmeans.native import BestTwo

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

    def find_best_two(self, rows: torch.Tensor) -> BestTwo:
        """Return best column, its score and the second's score of each of the (n, d) rows."""
        found = [
            self._arithmetic.find_best_two(products, self.bias)
            for _, products in self.multiply(rows)
        ]
        columns, best, second = zip(*found, strict=True)
        return torch.cat(columns), torch.cat(best), torch.cat(second)

    def assign(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the (n,) int64 nearest centroids of (n, d) rows."""
        return self.find_best_two(rows)[0]
