"""The loops beside the matrix product in torch's own operations: for GPUs, and without a compiler.

n: rows, K: num_clusters, d: dimensions, T: columns listed for a row.
"""

from __future__ import annotations

from typing import Final

import torch

from clusterfit.worker.kmeans.kernel import BestTwo
from clusterfit.worker.kmeans.products import Factor, Scores
from clusterfit.worker.kmeans.sizes import choose_sizes

_ADDED_ROWS: Final = 1024
"""Rows that are widened to float64 at a time."""


class PortableKernel:
    """See `Kernel`."""

    def find_best_two(self, scores: Scores) -> BestTwo:
        """Return the two best columns of each row."""
        computed = scores.compute()
        if computed.shape[1] == 1:
            best = computed[:, 0]
            return torch.zeros_like(best, dtype=torch.int64), best, best - torch.inf
        best, columns = computed.max(1)
        computed.scatter_(1, columns[:, None], -torch.inf)
        return columns, best, computed.amax(1)

    def list_best(self, scores: Scores, num_listed: int) -> torch.Tensor:
        """Return the (n, T) int32 columns that score highest, rising in each row."""
        return scores.compute().topk(num_listed, 1).indices.sort(1).values.int()

    def compare(
        self,
        scores: Scores,
        least: torch.Tensor,
        rows: torch.Tensor,
        places: torch.Tensor,
        centroids: torch.Tensor,
    ) -> torch.Tensor:
        """Return (m,) the nearest of the columns that score enough."""
        possible = scores.take(places).compute() >= least[:, None]
        possible |= ~possible.any(1, keepdim=True)
        numbers, columns = possible.nonzero(as_tuple=True)  # rising by row, then by column
        distances = _measure_pairs(rows, places[numbers], centroids, columns)
        nearest = torch.full((len(places),), torch.inf, dtype=torch.float64, device=rows.device)
        nearest.scatter_reduce_(0, numbers, distances, "amin")
        is_nearest = distances == nearest[numbers]
        chosen = torch.full((len(places),), len(centroids), device=rows.device)
        chosen.scatter_reduce_(0, numbers[is_nearest], columns[is_nearest], "amin")
        return chosen.where(chosen < len(centroids), 0)  # the distances of some are no numbers

    def choose(
        self,
        rows: torch.Tensor,
        lists: torch.Tensor,
        centroids: torch.Tensor,
        bias: torch.Tensor,
        order: torch.Tensor,
    ) -> torch.Tensor:
        """Return (n,) int64: of the centroids that a row's list names, the one it scores best."""
        columns = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
        step = count_pairs(rows) // lists.shape[1] or 1
        for start in range(0, len(rows), step):
            mine = order[start : start + step]
            listed = lists[mine].long()  # (n, T)
            products = torch.bmm(centroids[listed], rows[mine].float()[:, :, None])[:, :, 0]
            best = (products + bias[listed]).argmax(1, keepdim=True)
            columns[mine] = listed.gather(1, best)[:, 0]
        return columns

    def measure_distances(
        self, rows: torch.Tensor, centroids: torch.Tensor, columns: torch.Tensor
    ) -> torch.Tensor:
        """Return (n,) float32 squared distances of (n, d) float32 rows from their centroids."""
        places = torch.arange(len(rows), device=rows.device)
        return _measure_pairs(rows, places, centroids, columns).float()

    def enter_rows(
        self, raw: torch.Tensor, mean: torch.Tensor, rounder: float, rows: torch.Tensor
    ) -> torch.Tensor:
        """Write raw rows minus the mean, on their grid, to `rows`; return their squared norms."""
        rows.copy_((raw.to(rows.device) - mean.to(rows.device)).add_(rounder).sub_(rounder))
        return rows.float().square().sum(1)

    def round_rows(self, rows: torch.Tensor) -> Factor:
        """Return (n, d) rows rounded to int8, each by a step of its own."""
        wide = rows.float()
        steps = torch.linalg.vector_norm(wide, torch.inf, dim=1) / 127
        return Factor((wide / steps.clamp(min=1e-38)[:, None]).round_().to(torch.int8), steps)

    def add_rows(
        self,
        sums: torch.Tensor,
        rows: torch.Tensor,
        order: torch.Tensor,
        clusters: torch.Tensor,
        sign: int = 1,
    ) -> None:
        """Add (n, d) rows, or take them away, in (K, d) float64 sums, without rounding."""
        for start in range(0, len(order), _ADDED_ROWS):
            taken = order[start : start + _ADDED_ROWS]
            sums.index_add_(0, clusters[taken], rows[taken].double(), alpha=sign)


def count_pairs(rows: torch.Tensor) -> int:
    """Return how many pairs of rows and centroids are compared at once."""
    return max(1, 4 * choose_sizes(rows.device).elements // rows.shape[1])


def _measure_pairs(
    rows: torch.Tensor, places: torch.Tensor, centroids: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Return (p,) float64: sums in float32 would decide some close calls wrongly."""
    distances = torch.empty(len(places), dtype=torch.float64, device=rows.device)
    step = count_pairs(rows)
    for start in range(0, len(places), step):
        pairs = slice(start, start + step)
        differences = rows[places[pairs]] - centroids[columns[pairs]]
        distances[pairs] = differences.square_().sum(1, dtype=torch.float64)
    return distances
