"""The loops beside the matrix product, on whatever computes them.

n: rows, m: places among them, K: num_clusters, d: dimensions, T: columns listed for a row.
"""

from __future__ import annotations

from typing import Protocol

import torch

from clusterfit.worker.kmeans.products import Factor, Scores

BestTwo = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Of each row: (n,) int64 best column, (n,) float32 its score, (n,) float32 the second's."""


class Kernel(Protocol):
    """What torch's own operations do on any device, and compiled loops do faster."""

    def find_best_two(self, scores: Scores) -> BestTwo:
        """Return the two best columns of each row; the lower column wins a tie."""

    def list_best(self, scores: Scores, num_listed: int) -> torch.Tensor:
        """Return the (n, T) int32 columns that score highest, rising in each row."""

    def compare(
        self,
        scores: Scores,
        least: torch.Tensor,
        rows: torch.Tensor,
        places: torch.Tensor,
        centroids: torch.Tensor,
    ) -> torch.Tensor:
        """Return (m,) the nearest, in float32, of the columns that score `least` (m,) or more.

        For the (m,) `places` among the (n, d) float32 rows and their scores; the lower column wins
        a tie. Where none scores so much it is the nearest of all.
        """

    def choose(
        self,
        rows: torch.Tensor,
        lists: torch.Tensor,
        centroids: torch.Tensor,
        bias: torch.Tensor,
        order: torch.Tensor,
    ) -> torch.Tensor:
        """Return (n,) int64 the best of the centroids that each row's list (n, T) names.

        Scores are float32, of (n, d) rounded rows and (K, d) float32 centroids with their (K,)
        bias; the first of equals wins. `order` is a permutation in which neighbours' lists are
        alike.
        """

    def measure_distances(
        self, rows: torch.Tensor, centroids: torch.Tensor, columns: torch.Tensor
    ) -> torch.Tensor:
        """Return (n,) float32 squared distances of (n, d) float32 rows from their centroids."""

    def enter_rows(
        self, raw: torch.Tensor, mean: torch.Tensor, rounder: float, rows: torch.Tensor
    ) -> torch.Tensor:
        """Write raw (n, d) rows minus the (d,) mean, on their grid, to `rows`, float32 or bfloat16.

        The grid is what adding and subtracting `rounder` in float32 rounds to. Returns the (n,)
        float32 squared norms of what was written.
        """

    def round_rows(self, rows: torch.Tensor) -> Factor:
        """Return (n, d) rows rounded to int8, each by a step of its own."""

    def add_rows(
        self,
        sums: torch.Tensor,
        rows: torch.Tensor,
        order: torch.Tensor,
        clusters: torch.Tensor,
        sign: int = 1,
    ) -> None:
        """Add (n, d) rows, or take them away, in (K, d) float64 sums, without rounding.

        `order` names the rows that take part, best in the order of their (n,) clusters: a sum stays
        in cache until it is done.
        """
