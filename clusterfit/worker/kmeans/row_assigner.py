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

AUDIT_STEP: Final = 256
"""Every such row is looked up in float64 as well."""

ASSIGNED_ROWS: Final = 2048
"""Rows that are centred, multiplied and compared at a time, while they are in cache."""


class RowAssigner:
    """Assigns rows to the nearest of some centroids."""

    def __init__(self, centroids: np.ndarray, sample: np.ndarray, device: torch.device) -> None:
        """Take (K, d) float32 centroids and (m, d) float32 rows like those that will come."""
        mean = centroids.mean(0, dtype=np.float64).astype(np.float32)
        self._device = device
        self._mean = torch.from_numpy(mean)
        self._exact = ExactAssigner(
            self._enter(centroids),
            choose_arithmetic(device, centroids.shape[1]),
            self._enter(sample),
        )

    def assign(self, rows: np.ndarray, num_nearest: int = 1) -> Assigned:
        """Assign exactly; see `Assigner.assign`."""
        assignments = np.empty(len(rows), np.int64)
        distances_sq = np.empty(len(rows), np.float32)
        nearest = np.empty((len(rows), num_nearest), np.int64) if num_nearest > 1 else None
        for start in range(0, len(rows), ASSIGNED_ROWS):
            mine = slice(start, start + ASSIGNED_ROWS)
            centred = self._enter(rows[mine])
            found, found_sq = self._exact.assign(centred)
            assignments[mine], distances_sq[mine] = found.cpu().numpy(), found_sq.cpu().numpy()
            if nearest is not None:
                listed = self._exact.list_nearest(centred, found, num_nearest)
                nearest[mine] = listed.cpu().numpy()
        chosen = torch.from_numpy(assignments[::AUDIT_STEP]).to(self._device)
        self._exact.audit(self._enter(rows[::AUDIT_STEP]), chosen)
        findings = dict(self._exact.findings)
        self._exact.findings.clear()
        return Assigned(assignments, distances_sq, nearest, findings)

    def _enter(self, rows: np.ndarray) -> torch.Tensor:
        return (torch.from_numpy(rows) - self._mean).to(self._device)
