"""torch as an engine: sharded over ranks, bfloat16 products, exact at the end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from clusterfit.config.tree import Cluster
from clusterfit.worker.kmeans.arithmetic import Arithmetic, choose_arithmetic
from clusterfit.worker.kmeans.engine import Fit
from clusterfit.worker.kmeans.exact import ExactAssigner
from clusterfit.worker.kmeans.lloyd import Lloyd
from clusterfit.worker.kmeans.rank_rows import RankRows, find_frame
from clusterfit.worker.kmeans.ranks import Ranks
from clusterfit.worker.kmeans.rows import RowSource
from clusterfit.worker.kmeans.two_level import find_two_level_centroids


class TorchEngine:
    """Lloyd's iterations on as many ranks as there are, each with its own rows."""

    name = "torch"

    def __init__(self, device: torch.device | None = None, ranks: Ranks | None = None) -> None:
        """Work on a device, with peers; by default alone and on the CPU."""
        self._device = device or torch.device("cpu")
        self._ranks = ranks or Ranks()
        self._assigner: ExactAssigner | None = None
        self._assigned_to: np.ndarray | None = None
        self._mean: torch.Tensor | None = None

    def fit(
        self,
        rows: RowSource,
        config: Cluster,
        seed: int,
        start: Fit | None,
        report: Callable[[Fit], None],
    ) -> Fit:
        """Return the fit after `config.num_iterations`, or where it stands still."""
        arithmetic = choose_arithmetic(self._device, rows.dim)
        first, last = self._ranks.share(rows.num_rows)
        frame = find_frame(rows, first, last, self._ranks)
        mine = RankRows(rows, frame, arithmetic, first, last, is_resident=True)
        if start is None:
            centroids = self._initialise(mine, rows.num_rows, config, arithmetic, seed)
            fit = Fit(frame.leave(centroids).numpy(), ())
        else:
            centroids = torch.from_numpy(start.centroids) - frame.mean
            fit = start
        lloyd = Lloyd(mine, arithmetic, self._ranks, seed)
        while fit.num_iterations < config.num_iterations:
            step = lloyd.iterate(centroids, fit.num_iterations)
            centroids = step.centroids
            fit = Fit(frame.leave(centroids).numpy(), (*fit.objectives, step.objective))
            report(fit)
        return fit

    def _initialise(
        self, mine: RankRows, num_rows: int, config: Cluster, arithmetic: Arithmetic, seed: int
    ) -> torch.Tensor:
        return find_two_level_centroids(
            mine, num_rows, config.num_clusters, arithmetic, self._ranks, seed
        )

    def assign(self, rows: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Assign exactly; see `Engine.assign`."""
        if self._assigner is None or self._assigned_to is not centroids:
            self._mean = torch.from_numpy(centroids.mean(0, dtype=np.float64).astype(np.float32))
            self._assigner = ExactAssigner(
                torch.from_numpy(centroids) - self._mean,
                choose_arithmetic(self._device, centroids.shape[1]),
            )
            self._assigned_to = centroids
        assert self._mean is not None
        found, distances_sq = self._assigner.assign(torch.from_numpy(rows) - self._mean)
        return found.cpu().numpy(), distances_sq.cpu().numpy()
