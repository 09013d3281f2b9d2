"""torch as an engine: rows shared out over ranks, rounded products, exact at the end.

N: rows of all ranks, K: num_clusters, d: dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
import torch

from clusterfit.config.forecast.centroids import DEVICE_BYTES, HOST_BYTES
from clusterfit.config.sections.clustering import Cluster
from clusterfit.worker.kmeans.arithmetic import choose_arithmetic
from clusterfit.worker.kmeans.balance import balance, is_balanced
from clusterfit.worker.kmeans.engine import Fit
from clusterfit.worker.kmeans.iterations import is_done, iterate
from clusterfit.worker.kmeans.problem import Problem
from clusterfit.worker.kmeans.pulse import Pulse
from clusterfit.worker.kmeans.rank_rows import Frame, find_frame, prepare_rows
from clusterfit.worker.kmeans.ranks import Ranks
from clusterfit.worker.kmeans.rounding import MAX_EXCESS, Probe
from clusterfit.worker.kmeans.row_assigner import RowAssigner
from clusterfit.worker.kmeans.rows import RowSource, draw_row_numbers
from clusterfit.worker.kmeans.two_level import find_two_level_centroids
from clusterfit.worker.memory import find_available_bytes

_ROWS_FRACTION: Final = 0.5
"""Of the memory that is there, at most so much holds rows, or the rows that a start is found among:
the rest is for products, sums and copies."""


class TorchEngine:
    """Lloyd's iterations on as many ranks as there are, each with its own rows."""

    name = "torch"
    uses_all_ranks = True

    def __init__(self, device: torch.device | None = None, ranks: Ranks | None = None) -> None:
        """Work on a device, with peers; by default alone and on the CPU."""
        self._device = device or torch.device("cpu")
        self._ranks = ranks or Ranks()
        self._said: dict[str, Any] = {"engine": self.name}

    def fit(
        self,
        rows: RowSource,
        config: Cluster,
        seed: int,
        start: Fit | None,
        report: Callable[[Fit], None],
        pulse: Pulse | None = None,
    ) -> Fit:
        """Iterate until `config.num_iterations` or a stopping rule; see `Engine.fit`."""
        if start is not None and is_done(start, config) and is_balanced(start, config):
            return start
        pulse = pulse or Pulse()
        frame = find_frame(rows, *self._ranks.share(rows.num_rows), self._ranks, pulse)
        pose = partial(self._pose, rows, frame, pulse, config, seed)
        if start is None:
            problem, fit = self._begin(pose)
            report(fit)
        else:
            problem, fit = pose(start.rounding_excess), start
        fit = iterate(problem, fit, report)
        if not is_done(fit, config):  # rows were rounded, and must not be
            del problem  # before others take its place in memory
            problem = pose(fit.rounding_excess)
            fit = iterate(problem, fit, report)
        return fit if is_balanced(fit, config) else balance(problem, fit, report)

    def _begin(self, pose: Callable[[float], Problem]) -> tuple[Problem, Fit]:
        """Return the problem, its rows rounded where they may be, and initial centroids."""
        problem = pose(0.0)
        centroids = self._start(problem)
        excess = 0.0
        if problem.probe is not None:
            excess = problem.probe.measure_start(centroids, problem.num_candidates)
        if excess <= MAX_EXCESS:
            return problem, Fit(problem.leave(centroids))
        del problem
        problem = pose(excess)
        return problem, Fit(problem.leave(self._start(problem)), rounding_excess=excess)

    def _pose(
        self,
        rows: RowSource,
        frame: Frame,
        pulse: Pulse,
        config: Cluster,
        seed: int,
        excess: float,
    ) -> Problem:
        """Return the problem with this rank's rows prepared, in memory where they fit.

        They are rounded where the device is faster so, unless too much of the objective, `excess`,
        has been found to come from that.
        """
        arithmetic = choose_arithmetic(self._device, rows.dim, self._ranks)
        if excess:
            why = f"float32: bfloat16 would add {excess:.2g} of the objective"
            arithmetic = arithmetic.widen(why)
        first, last = self._ranks.share(rows.num_rows)
        needed = (last - first) * rows.dim * arithmetic.row_bytes
        room, bound = self._find_room(rows.dim, config.num_clusters)
        # All ranks or none: a rank that reads its rows anew each time would hold the others up.
        is_resident = self._ranks.find_maximum(needed / max(room, 1)) <= _ROWS_FRACTION
        probe = None
        if arithmetic.dtype != torch.float32:
            probe = Probe(rows, frame, arithmetic, first, last, self._ranks)
        # Copying 16 candidates for each row costs a GPU as much as a product with all.
        num_candidates = 0 if self._device.type == "cuda" else config.num_candidates
        self._said |= {
            "dtype": str(arithmetic.dtype).removeprefix("torch."),
            "products": str(arithmetic.product_dtype).removeprefix("torch."),
            "candidates": num_candidates,
            "reason": arithmetic.reason,
            "rows": "in memory" if is_resident else "streamed",
            "row_bytes": needed,
            "room_bytes": room,
            "bound": bound,
        }
        return Problem(
            prepare_rows(rows, frame, arithmetic, first, last, is_resident, pulse),
            rows.num_rows,
            frame,
            arithmetic,
            self._ranks,
            pulse,
            config,
            seed,
            num_candidates,
            probe,
        )

    def _start(self, problem: Problem) -> torch.Tensor:
        """Return (K, d) initial centroids in the rows' frame."""
        num_rows, num_clusters = problem.num_rows, problem.config.num_clusters
        if problem.config.init == "random":
            drawn = draw_row_numbers(num_rows, num_clusters, problem.seed)
            return problem.rows.take(torch.from_numpy(drawn), self._ranks)
        # Those of a start are multiplied in another order than they are in.
        arithmetic = problem.arithmetic
        number_bytes = arithmetic.row_bytes + arithmetic.product_dtype.itemsize
        row_bytes = problem.rows.dim * number_bytes
        room, _ = self._find_room(problem.rows.dim, num_clusters)
        most_rows = int(_ROWS_FRACTION * -self._ranks.find_maximum(-room) / row_bytes)
        return find_two_level_centroids(
            problem.rows,
            num_rows,
            num_clusters,
            problem.arithmetic,
            self._ranks,
            problem.pulse,
            problem.seed,
            max(1, most_rows),
        )

    def _find_room(self, dim: int, num_clusters: int) -> tuple[int, str]:
        """Return the bytes that are there for rows beside the state of a fit, and their bound."""
        room, bound = find_available_bytes(self._device)
        number_bytes = DEVICE_BYTES + (HOST_BYTES if self._device.type == "cpu" else 0)
        return max(0, room - num_clusters * dim * number_bytes), bound

    def build_assigner(self, centroids: np.ndarray, sample: np.ndarray) -> RowAssigner:
        """Return what assigns exactly; see `Engine.build_assigner`."""
        return RowAssigner(centroids, sample, self._device)

    def describe(self) -> dict[str, Any]:
        """Return dtype, where the rows are kept, and why."""
        return dict(self._said)
