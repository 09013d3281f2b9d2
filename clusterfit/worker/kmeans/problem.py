"""What a fit works on: rows of all ranks, this rank's share, and how they are computed with.

K: num_clusters, d: dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from clusterfit.config.sections.clustering import Cluster
from clusterfit.worker.kmeans.arithmetic import Arithmetic
from clusterfit.worker.kmeans.pulse import Pulse
from clusterfit.worker.kmeans.rank_rows import Frame, RankRows
from clusterfit.worker.kmeans.ranks import Ranks
from clusterfit.worker.kmeans.rounding import Probe


@dataclass(frozen=True, slots=True)
class Problem:
    """One clustering on one rank."""

    rows: RankRows
    num_rows: int
    """Of all ranks."""
    frame: Frame
    arithmetic: Arithmetic
    ranks: Ranks
    pulse: Pulse
    config: Cluster
    seed: int
    num_candidates: int
    """Centroids that most iterations compare a row with; 0: all."""
    probe: Probe | None
    """What tells whether rows may stay rounded, where they are."""

    def enter(self, centroids: np.ndarray) -> torch.Tensor:
        """Return raw centroids (K, d) float32 in the rows' frame, on the device."""
        return self.frame.reenter(torch.from_numpy(centroids).to(self.arithmetic.device))

    def leave(self, centroids: torch.Tensor) -> np.ndarray:
        """Return centroids (K, d) float32 in raw coordinates."""
        raw = self.frame.leave(centroids)
        if raw.device.type == "cpu":
            return raw.numpy()
        # Page-locked memory, which a GPU writes and reads more than ten times faster.
        kept = torch.empty(raw.shape, dtype=raw.dtype, pin_memory=True)
        return kept.copy_(raw).numpy()

    def move(
        self, centroids: torch.Tensor, means: torch.Tensor, relaxation: float = 1.0
    ) -> torch.Tensor:
        """Return the centroids moved by `relaxation` times the way to the means.

        A cluster's sum of squared distances is that of its mean plus size * |centroid - mean|^2:
        below 2 it falls by 1 - (1 - relaxation)^2 of what going to the mean lowers it by.
        """
        if self.config.spherical:
            means = self._normalize(means)
        if relaxation == 1:
            return means
        moved = torch.lerp(centroids, means, relaxation)
        return self._normalize(moved) if self.config.spherical else moved

    def _normalize(self, means: torch.Tensor) -> torch.Tensor:
        """Return the centroids whose raw coordinates have norm 1."""
        mean = self.frame.mean.to(means.device)
        raw = means.double() + mean.double()
        norms = torch.linalg.vector_norm(raw, dim=1, keepdim=True)
        normalized: torch.Tensor = raw / norms.clamp(min=1e-12) - mean.double()
        return normalized.float()
