"""torch as an engine: rows shared out over ranks, rounded products, exact at the end.

N: rows of all ranks, K: num_clusters, d: dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch

from clusterfit.config.sections.clustering import Cluster
from clusterfit.worker.kmeans.arithmetic import Arithmetic, choose_arithmetic
from clusterfit.worker.kmeans.assignment import Scorer
from clusterfit.worker.kmeans.candidates import Candidates, is_renewed_at
from clusterfit.worker.kmeans.engine import Assigned, Fit
from clusterfit.worker.kmeans.exact import ExactAssigner
from clusterfit.worker.kmeans.faiss_engine import draw_centroids
from clusterfit.worker.kmeans.lloyd import Lloyd
from clusterfit.worker.kmeans.memory import find_available_bytes
from clusterfit.worker.kmeans.rank_rows import (
    Chunk,
    Frame,
    RankRows,
    find_frame,
    prepare_rows,
)
from clusterfit.worker.kmeans.ranks import Ranks
from clusterfit.worker.kmeans.rows import RowSource
from clusterfit.worker.kmeans.two_level import find_two_level_centroids

MAX_ROUNDING_EXCESS: Final = 1e-3
"""Of the objective: rounding is given up where wrong choices would add more than this."""

AUDIT_STEP: Final = 256
"""Every such row is looked up in float64 as well; it costs some 3 % of the assignment."""

_PROBE_ROWS: Final = 512
_ASSIGNED_ROWS: Final = 2048
"""Rows that are centred, multiplied and compared at a time, while they are in cache."""

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
        self._assigner: ExactAssigner | None = None
        self._assigned_to: np.ndarray | None = None
        self._mean = torch.empty(0)

    def fit(
        self,
        rows: RowSource,
        config: Cluster,
        seed: int,
        start: Fit | None,
        report: Callable[[Fit], None],
    ) -> Fit:
        """Iterate until `config.num_iterations` or a stopping rule; see `Engine.fit`."""
        first, last = self._ranks.share(rows.num_rows)
        frame = find_frame(rows, first, last, self._ranks)
        arithmetic = choose_arithmetic(self._device, rows.dim)
        mine = self._prepare(rows, frame, arithmetic)
        centroids = self._start(mine, frame, arithmetic, rows, config, seed, start)
        if arithmetic.dtype != torch.float32:
            excess = self._measure_excess(mine, rows.num_rows, centroids, arithmetic, config)
            if excess > MAX_ROUNDING_EXCESS:
                arithmetic = replace(
                    arithmetic,
                    dtype=torch.float32,
                    product_dtype=torch.float32,
                    reason=f"float32: bfloat16 would add {excess:.2g} of the objective",
                )
                del mine
                mine = self._prepare(rows, frame, arithmetic)
                centroids = self._start(mine, frame, arithmetic, rows, config, seed, start)
        self._said |= {
            "dtype": str(arithmetic.dtype).removeprefix("torch."),
            "products": str(arithmetic.product_dtype).removeprefix("torch."),
            "candidates": self._count_candidates(config),
            "reason": arithmetic.reason,
        }
        fit = start
        if fit is None:
            fit = Fit(frame.leave(centroids).cpu().numpy())
            report(fit)
        return self._iterate(mine, frame, arithmetic, config, rows.num_rows, seed, fit, report)

    def _iterate(
        self,
        mine: RankRows,
        frame: Frame,
        arithmetic: Arithmetic,
        config: Cluster,
        num_rows: int,
        seed: int,
        fit: Fit,
        report: Callable[[Fit], None],
    ) -> Fit:
        num_candidates = self._count_candidates(config)
        lloyd = Lloyd(mine, arithmetic, self._ranks, seed, num_candidates)
        if fit.previous is not None and fit.anchor is not None and not fit.is_settled:
            lloyd.recall(self._enter(fit.previous, frame), self._enter(fit.anchor, frame))
        while fit.num_iterations < config.num_iterations and not fit.is_settled:
            # From what a checkpoint holds, bit for bit, so that a resumed fit sees the same.
            centroids = self._enter(fit.centroids, frame)
            looks_at_all = not num_candidates or fit.is_resting or is_renewed_at(fit.num_iterations)
            step = lloyd.iterate(centroids, fit.num_iterations, looks_at_all)
            objectives = (*fit.objectives, step.objective)
            is_last = len(objectives) == config.num_iterations
            rests = step.num_changed <= config.stop_churn * num_rows or _is_flat(
                objectives, config.stop_improvement
            )
            # An empty cluster stands where no row has it as a candidate yet.
            is_resting = rests or step.num_empty > 0
            begins_at_means = config.relaxation == 1 or fit.is_resting
            is_settled = rests and looks_at_all and begins_at_means
            relaxation = 1.0 if is_resting or is_last else config.relaxation
            moved = _move(centroids, step.centroids, relaxation, frame, config.spherical)
            fit = Fit(
                frame.leave(moved).cpu().numpy(),
                objectives,
                previous=fit.centroids,
                anchor=fit.centroids if looks_at_all else fit.anchor,
                is_resting=is_resting,
                is_settled=is_settled,
            )
            report(fit)
        return fit

    def _count_candidates(self, config: Cluster) -> int:
        """Return how many each row has; 0 on GPUs, where copying 16 for each costs a product."""
        return 0 if self._device.type == "cuda" else config.num_candidates

    def _prepare(self, rows: RowSource, frame: Frame, arithmetic: Arithmetic) -> RankRows:
        first, last = self._ranks.share(rows.num_rows)
        needed = (last - first) * rows.dim * arithmetic.row_bytes
        room, bound = find_available_bytes(self._device)
        # All ranks or none: a rank that reads its rows anew each time would hold the others up.
        is_resident = self._ranks.find_maximum(needed / max(room, 1)) <= _ROWS_FRACTION
        self._said |= {
            "rows": "in memory" if is_resident else "streamed",
            "row_bytes": needed,
            "room_bytes": room,
            "bound": bound,
        }
        return prepare_rows(rows, frame, arithmetic, first, last, is_resident)

    def _start(
        self,
        mine: RankRows,
        frame: Frame,
        arithmetic: Arithmetic,
        rows: RowSource,
        config: Cluster,
        seed: int,
        start: Fit | None,
    ) -> torch.Tensor:
        """Return (K, d) centroids in the rows' frame: the start's, or initial ones."""
        if start is not None:
            return self._enter(start.centroids, frame)
        if config.init == "random":
            return self._enter(draw_centroids(rows, config.num_clusters, seed), frame)
        row_bytes = rows.dim * arithmetic.row_bytes
        room, _ = find_available_bytes(self._device)
        most_rows = int(_ROWS_FRACTION * -self._ranks.find_maximum(-room) / row_bytes)
        return find_two_level_centroids(
            mine,
            rows.num_rows,
            config.num_clusters,
            arithmetic,
            self._ranks,
            seed,
            max(1, most_rows),
        )

    def _enter(self, centroids: np.ndarray, frame: Frame) -> torch.Tensor:
        return (torch.from_numpy(centroids) - frame.mean).to(self._device)

    def _measure_excess(
        self,
        mine: RankRows,
        num_rows: int,
        centroids: torch.Tensor,
        arithmetic: Arithmetic,
        config: Cluster,
    ) -> float:
        """Return by what fraction wrong choices raise the objective of some rows."""
        step = max(1, num_rows // _PROBE_ROWS)
        probe = mine.take(torch.arange(0, num_rows, step), self._ranks)
        chunk = Chunk(probe.to(arithmetic.dtype), arithmetic)
        candidates = Candidates(len(probe), self._count_candidates(config), arithmetic)
        candidates.take(centroids)
        everywhere = torch.zeros(len(probe), dtype=torch.int64, device=probe.device)
        chosen = candidates.assign(
            chunk, slice(0, len(probe)), everywhere, Scorer(centroids, arithmetic)
        )
        wide = centroids.double()
        distances = torch.cdist(probe.double(), wide).square_()
        least = distances.amin(1).sum()
        spent = distances.gather(1, chosen[:, None]).sum()
        excess = (spent - least) / least.clamp(min=1e-300)
        self._ranks.take_rank_0s(excess)
        return float(excess)

    def assign(self, rows: np.ndarray, centroids: np.ndarray, num_nearest: int = 1) -> Assigned:
        """Assign exactly; see `Engine.assign`."""
        if self._assigner is None or self._assigned_to is not centroids:
            self._mean = torch.from_numpy(centroids.mean(0, dtype=np.float64).astype(np.float32))
            self._assigner = ExactAssigner(
                (torch.from_numpy(centroids) - self._mean).to(self._device),
                choose_arithmetic(self._device, centroids.shape[1]),
            )
            self._assigned_to = centroids
        assignments = np.empty(len(rows), np.int64)
        distances_sq = np.empty(len(rows), np.float32)
        nearest = np.empty((len(rows), num_nearest), np.int64) if num_nearest > 1 else None
        for start in range(0, len(rows), _ASSIGNED_ROWS):
            mine = slice(start, start + _ASSIGNED_ROWS)
            centred = (torch.from_numpy(rows[mine]) - self._mean).to(self._device)
            found, found_sq = self._assigner.assign(centred)
            assignments[mine], distances_sq[mine] = found.cpu().numpy(), found_sq.cpu().numpy()
            if nearest is not None:
                listed = self._assigner.list_nearest(centred, found, num_nearest)
                nearest[mine] = listed.cpu().numpy()
        sample = (torch.from_numpy(rows[::AUDIT_STEP]) - self._mean).to(self._device)
        chosen = torch.from_numpy(assignments[::AUDIT_STEP]).to(self._device)
        self._assigner.audit(sample, chosen)
        findings = dict(self._assigner.findings)
        self._assigner.findings.clear()
        return Assigned(assignments, distances_sq, nearest, findings)

    def describe(self) -> dict[str, Any]:
        """Return dtype, where the rows are kept, and why."""
        return dict(self._said)


def _is_flat(objectives: tuple[float, ...], least: float) -> bool:
    """Tell whether the last iteration began less than this fraction below the one before."""
    if len(objectives) < 2 or not least:
        return False
    before, now = objectives[-2:]
    return before - now < least * before


def _move(
    centroids: torch.Tensor,
    means: torch.Tensor,
    relaxation: float,
    frame: Frame,
    is_spherical: bool,
) -> torch.Tensor:
    """Return the centroids moved by `relaxation` times the way to the means.

    A cluster's sum of squared distances is that of its mean plus size * |centroid - mean|^2: below
    2 it falls by 1 - (1 - relaxation)^2 of what going to the mean lowers it by.
    """
    if is_spherical:
        means = _normalize(means, frame)
    if relaxation == 1:
        return means
    moved = torch.lerp(centroids, means, relaxation)
    return _normalize(moved, frame) if is_spherical else moved


def _normalize(means: torch.Tensor, frame: Frame) -> torch.Tensor:
    """Return the centroids whose raw coordinates have norm 1."""
    mean = frame.mean.to(means.device)
    raw = means.double() + mean.double()
    norms = torch.linalg.vector_norm(raw, dim=1, keepdim=True)
    normalized: torch.Tensor = raw / norms.clamp(min=1e-12) - mean.double()
    return normalized.float()
