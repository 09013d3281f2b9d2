"""The assignment that ends a clustering: rounded products find who can be nearest, float32 decides.

A score's rounding error grows with |x||c|; by how much is measured on some rows before the first
block. Rows whose best two scores lie further apart than twice that are decided; for the others
every centroid that close is compared in float32. K: num_clusters, d: dimensions, n: rows.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import torch

from clusterfit.worker.kmeans.arithmetic import Arithmetic
from clusterfit.worker.kmeans.assignment import Scorer
from clusterfit.worker.kmeans.portable import PAIR_ELEMENTS
from clusterfit.worker.kmeans.products import Scores

_SAMPLE_ROWS: Final = 256
_SAMPLE_ELEMENTS: Final = 1 << 22
_SAFETY: Final = 1.5
"""Times the largest error among a million or so measured ones, some five standard deviations."""


class ExactAssigner:
    """Nearest centroids as float64 would have them, but for ties within float32's rounding."""

    def __init__(self, centroids: torch.Tensor, arithmetic: Arithmetic) -> None:
        """Take (K, d) float32 centroids in the frame of the rows that will come.

        `findings` counts rows compared in float32 (num_rechecked), rows held against float64
        (num_audited) and those of them that differed (num_audited_wrong).
        """
        self._centroids = centroids
        self._double = centroids.double()
        self._half_norms = 0.5 * self._double.square().sum(1)
        self._arithmetic = arithmetic
        self._scorer = Scorer(centroids, arithmetic)
        self._relative_error: float | None = None
        self.findings: Counter[str] = Counter()

    def assign(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (n,) int64 nearest centroids of (n, d) float32 rows and (n,) squared distances."""
        if self._relative_error is None:
            self._relative_error = self._measure_error(rows)
        rounded = self._arithmetic.prepare(rows)
        margins = 2 * self._relative_error * torch.linalg.vector_norm(rows, dim=1)
        assignments = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
        for mine, scores, (columns, best, second) in self._scorer.search(rounded):
            unsure = (best - second <= margins[mine]).nonzero()[:, 0]
            if len(unsure):
                compared, places = rows[mine], unsure
                if scores is None:
                    products = rounded.numbers[mine][unsure] @ self._scorer.factor.numbers.t()
                    scores = Scores(products, self._scorer.bias)
                    compared, places = compared[unsure], torch.arange(len(unsure))
                least = best[unsure] - margins[mine][unsure]
                columns[unsure] = self._arithmetic.kernel.compare(
                    scores, least, compared, places, self._centroids
                )
            assignments[mine] = columns
            self.findings["num_rechecked"] += len(unsure)
        measured = self._arithmetic.kernel.measure_distances(rows, self._centroids, assignments)
        return assignments, measured

    def list_nearest(
        self, rows: torch.Tensor, assignments: torch.Tensor, num_nearest: int
    ) -> torch.Tensor:
        """Return (n, num_nearest) int64 nearest centroids, the assigned one first.

        The others are ordered in float32 among twice as many that the rounded scores name, so only
        the end of the list is a matter of rounding.
        """
        wanted = min(2 * num_nearest + 8, len(self._centroids))
        nearest = torch.empty(len(rows), num_nearest, dtype=torch.int64, device=rows.device)
        step = max(1, PAIR_ELEMENTS // (wanted * rows.shape[1]))
        for block, scores in self._scorer.multiply(self._arithmetic.prepare(rows)):
            named = scores.compute().topk(wanted, 1).indices
            for start in range(0, len(named), step):
                stop = min(start + step, len(named))
                mine = slice(block.start + start, block.start + stop)
                columns = named[start : start + step]
                distances = (rows[mine, None] - self._centroids[columns]).square_().sum(2)
                distances[columns == assignments[mine, None]] = -1.0
                order = distances.argsort(dim=1, stable=True)[:, :num_nearest]
                nearest[mine] = columns.gather(1, order)
        return nearest

    def audit(self, rows: torch.Tensor, assignments: torch.Tensor) -> None:
        """Count how often float64 would have assigned (n, d) rows otherwise."""
        scores = rows.double() @ self._double.t() - self._half_norms
        self.findings["num_audited"] += len(rows)
        self.findings["num_audited_wrong"] += int((scores.argmax(1) != assignments).sum())

    def _measure_error(self, rows: torch.Tensor) -> float:
        """Return the bound on a score's error, as a multiple of the row's norm."""
        num_rows = max(1, min(_SAMPLE_ROWS, _SAMPLE_ELEMENTS // len(self._centroids)))
        step = max(1, len(rows) // num_rows)
        sample = rows[::step][:num_rows]
        truth = sample.double() @ self._double.t() - self._half_norms
        norms = torch.linalg.vector_norm(sample.double(), dim=1)
        largest = 0.0
        for mine, scores in self._scorer.multiply(self._arithmetic.prepare(sample)):
            errors = (scores.compute() - truth[mine]).abs().amax(1)
            largest = max(largest, float((errors / norms[mine].clamp(min=1e-30)).max()))
        return _SAFETY * largest
