"""The clusters of raw rows, exactly: what a stage asks of final centroids.

K: num_clusters, d: dimensions, n: rows.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

from clusterfit.worker.kmeans.arithmetic import choose_arithmetic
from clusterfit.worker.kmeans.engine import Assigned
from clusterfit.worker.kmeans.exact import ExactAssigner
from clusterfit.worker.kmeans.sizes import choose_sizes

AUDIT_STEP: Final = 256
"""Every such row is looked up in float64 as well."""


class RowAssigner:
    """Assigns rows to the nearest of some centroids, or to that of the least distance + price."""

    def __init__(
        self,
        centroids: np.ndarray,
        sample: np.ndarray,
        device: torch.device,
        prices: np.ndarray | None = None,
    ) -> None:
        """Take (K, d) float32 centroids and (m, d) float32 rows like those that will come.

        Where sizes are limited also (K,) float32 prices.
        """
        mean = centroids.mean(0, dtype=np.float64).astype(np.float32)
        self._device = device
        self._mean = torch.from_numpy(mean).to(device)
        self._centroids = self._enter(centroids)
        self._prices = None if prices is None else torch.from_numpy(prices).to(device)
        self._arithmetic = choose_arithmetic(device, centroids.shape[1])
        self._exact = ExactAssigner(
            self._centroids, self._arithmetic, self._enter(sample), self._prices
        )
        self.least_total = 0.0
        """Of all rows so far the sum of least squared distances + prices."""

    def assign(
        self, rows: np.ndarray, num_nearest: int = 1, seats: np.ndarray | None = None
    ) -> Assigned:
        """Assign exactly; see `Assigner.assign`.

        Seats, (n,) int64, are clusters that rows have been given before: they stay there.
        """
        assignments = np.empty(len(rows), np.int64)
        distances_sq = np.empty(len(rows), np.float32)
        nearest = np.empty((len(rows), num_nearest), np.int64) if num_nearest > 1 else None
        best = torch.empty(len(rows), dtype=torch.int64, device=self._device)
        step = choose_sizes(self._device).assigned_rows
        for start in range(0, len(rows), step):
            mine = slice(start, start + step)
            centred = self._enter(rows[mine])
            found, found_sq = self._exact.assign(centred)
            best[mine] = found
            if self._prices is not None:
                self.least_total += float((found_sq.double() + self._prices[found]).sum())
            if seats is not None:
                found = torch.from_numpy(seats[mine]).to(self._device)
                kernel = self._arithmetic.kernel
                found_sq = kernel.measure_distances(centred, self._centroids, found)
            assignments[mine], distances_sq[mine] = found.cpu().numpy(), found_sq.cpu().numpy()
            if nearest is not None:
                listed = self._exact.list_nearest(centred, found, num_nearest)
                nearest[mine] = listed.cpu().numpy()
        self._exact.audit(self._enter(rows[::AUDIT_STEP]), best[::AUDIT_STEP])
        findings = dict(self._exact.findings)
        self._exact.findings.clear()
        return Assigned(assignments, distances_sq, nearest, findings)

    def _enter(self, rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(rows).to(self._device) - self._mean
