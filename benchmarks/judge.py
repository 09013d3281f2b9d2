"""The judge: objectives and nearest centroids in float64, by numpy alone.

It shares no line and no library with what it judges, and knows one way to compute: all distances.

N: rows, D: dimensions, K: clusters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

_BLOCK_ROWS: Final = 4096


@dataclass(frozen=True, slots=True)
class Verdict:
    """What float64 says of rows and centroids."""

    assignments: np.ndarray
    """(N,) int64, the nearest centroid; the first of equals."""
    distances_sq: np.ndarray
    """(N,) float64."""

    @property
    def objective(self) -> float:
        """Sum of squared L2 distances."""
        return float(self.distances_sq.sum())


def judge(chunks: Iterable[np.ndarray], centroids: np.ndarray) -> Verdict:
    """Return each row's nearest centroid and its distance.

    Args:
        chunks: the rows, (n, D) at a time.
        centroids: (K, D).
    """
    centroids = centroids.astype(np.float64)
    halves = (centroids * centroids).sum(1) / 2  # (K,)
    assignments, distances_sq = [], []
    for chunk in chunks:
        for first in range(0, len(chunk), _BLOCK_ROWS):
            rows = chunk[first : first + _BLOCK_ROWS].astype(np.float64)
            scores = rows @ centroids.T - halves  # (n, K)
            nearest = scores.argmax(1)
            difference = rows - centroids[nearest]  # (n, D)
            assignments.append(nearest)
            distances_sq.append(np.einsum("nd,nd->n", difference, difference))
    return Verdict(np.concatenate(assignments), np.concatenate(distances_sq))


def count_farther(
    chunks: Iterable[np.ndarray], centroids: np.ndarray, assignments: np.ndarray, best: Verdict
) -> tuple[int, float]:
    """Return how many rows got a centroid that is not the nearest, and how much farther it is.

    Equally near centroids count as equal. How much is relative to the nearest one's squared
    distance.
    """
    centroids = centroids.astype(np.float64)
    count, worst, start = 0, 0.0, 0
    for chunk in chunks:
        stop = start + len(chunk)
        difference = chunk.astype(np.float64) - centroids[assignments[start:stop]]
        distances_sq = np.einsum("nd,nd->n", difference, difference)
        nearest = best.distances_sq[start:stop]
        excess = (distances_sq - nearest) / np.maximum(nearest, 1e-30)
        count += int((excess > 0).sum())
        worst = max(worst, float(excess.max(initial=0)))
        start = stop
    return count, worst
