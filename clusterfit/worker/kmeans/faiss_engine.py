"""faiss as an engine: the reference. One process, on all cores or on the GPUs of its node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np

from clusterfit.config.sections.clustering import Cluster
from clusterfit.errors import ConfigError
from clusterfit.worker.cores import count_cores
from clusterfit.worker.kmeans.engine import Assigned, Fit
from clusterfit.worker.kmeans.pulse import Pulse
from clusterfit.worker.kmeans.rows import RowSource, draw_row_numbers, read_all

_ALL_POINTS = 2**31 - 1


class FaissAssigner:
    """Searches a flat index of the centroids."""

    def __init__(self, centroids: np.ndarray, num_gpus: int, num_threads: int) -> None:
        """Take (K, d) float32 centroids."""
        self._num_threads = num_threads
        self._index: Any = faiss.IndexFlatL2(centroids.shape[1])
        if num_gpus:
            self._index = faiss.index_cpu_to_all_gpus(self._index)
        self._index.add(centroids)

    def assign(self, rows: np.ndarray, num_nearest: int = 1) -> Assigned:
        """Search; see `Assigner.assign`."""
        faiss.omp_set_num_threads(self._num_threads)
        distances_sq, nearest = self._index.search(rows, num_nearest)
        return Assigned(
            nearest[:, 0].astype(np.int64),
            distances_sq[:, 0].astype(np.float32),
            nearest.astype(np.int64) if num_nearest > 1 else None,
        )


class FaissEngine:
    """faiss.Kmeans, one iteration a call.

    n calls of one iteration, each from the last one's centroids, equal one call of n; between them
    there is room to report, to write a checkpoint and to stop, which faiss' own loop does not give.
    """

    name = "faiss"
    uses_all_ranks = False

    def __init__(self, num_threads: int | None = None, *, use_gpus: bool = False) -> None:
        """Fit on all cores, or on all GPUs; assign on so many threads, or all cores.

        Raises:
            ConfigError: when GPUs are asked for and faiss, as it is installed, knows of none.
        """
        self._num_gpus: int = faiss.get_num_gpus() if use_gpus else 0
        if use_gpus and not self._num_gpus:
            raise ConfigError(
                "cluster.engine: faiss, as it is installed here, knows of no GPU, and device is "
                "cuda; set engine: torch or device: cpu, or use the worker's packages for GPUs"
            )
        self._num_threads = num_threads or count_cores()

    def fit(
        self,
        rows: RowSource,
        config: Cluster,
        seed: int,
        start: Fit | None,
        report: Callable[[Fit], None],
        pulse: Pulse | None = None,
    ) -> Fit:
        """Run Lloyd's iterations with faiss' splitting of empty clusters; see `Engine.fit`."""
        fit = start
        if fit is not None and fit.num_iterations >= config.num_iterations:
            return fit
        faiss.omp_set_num_threads(count_cores())
        points = read_all(rows, pulse)
        if fit is None:
            fit = Fit(points[draw_row_numbers(rows.num_rows, config.num_clusters, seed)])
            report(fit)
        while fit.num_iterations < config.num_iterations:
            kmeans = faiss.Kmeans(
                rows.dim,
                config.num_clusters,
                niter=1,
                seed=seed,
                gpu=self._num_gpus > 0,
                min_points_per_centroid=1,  # it only warns, and the manifest tells the sizes
                max_points_per_centroid=_ALL_POINTS // config.num_clusters,
            )
            kmeans.train(points, init_centroids=fit.centroids)
            assert kmeans.obj is not None, "train sets it"
            fit = Fit(
                np.array(kmeans.centroids, np.float32),
                (*fit.objectives, float(kmeans.obj[0])),
            )
            report(fit)
        return fit

    def build_assigner(
        self,
        centroids: np.ndarray,
        sample: np.ndarray,  # noqa: ARG002 - nothing is rounded
    ) -> FaissAssigner:
        """Return what searches exactly; see `Engine.build_assigner`."""
        return FaissAssigner(centroids, self._num_gpus, self._num_threads)

    def describe(self) -> dict[str, Any]:
        """Return its name and the GPUs that it uses."""
        return {"engine": self.name, "faiss_gpus": self._num_gpus}
