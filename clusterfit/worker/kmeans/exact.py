"""The assignment that ends a clustering: rounded products find who can be nearest, float32 decides.

How far a score can be off at most follows from the row's own step and norm; which part of that is
reached is measured on some rows beforehand. Rows whose best two scores lie further apart than twice
that are decided; for the others every centroid that close is compared in float32. K: num_clusters,
d: dimensions, n: rows, m: sampled rows, T: columns listed for a row.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import torch

from clusterfit.worker.kmeans.arithmetic import Arithmetic
from clusterfit.worker.kmeans.assignment import Scorer
from clusterfit.worker.kmeans.portable import count_pairs
from clusterfit.worker.kmeans.products import Factor, Scores

SAMPLED_ROWS: Final = 256
"""As many as are worth handing over to be measured on."""

_SAMPLE_ELEMENTS: Final = 1 << 22
_SAFETY: Final = 1.5
"""Times the largest error among a million or so measured ones, some five standard deviations."""


class ExactAssigner:
    """Nearest centroids as float64 would have them, but for ties within float32's rounding."""

    def __init__(
        self,
        centroids: torch.Tensor,
        arithmetic: Arithmetic,
        sample: torch.Tensor,
        prices: torch.Tensor | None = None,
    ) -> None:
        """Take (K, d) float32 centroids and (m, d) of the rows that will come, in the same frame.

        With (K,) float32 prices that is nearest of which squared distance plus price is least.
        `findings` counts rows compared in float32 (num_rechecked), rows held against float64
        (num_audited) and those of them that differed (num_audited_wrong).
        """
        self._centroids = centroids
        self._double = centroids.double()
        self._half_norms = 0.5 * self._double.square().sum(1)
        self._compared = centroids
        self._highest = 0.0
        self._is_priced = prices is not None
        if prices is not None:
            self._half_norms += 0.5 * prices
            self._compared = torch.cat([centroids, prices.sqrt()[:, None]], 1)
            self._highest = float(prices.max())
        self._arithmetic = arithmetic
        self._scorer = Scorer(centroids, arithmetic, prices)
        self._longest = float(torch.linalg.vector_norm(centroids, dim=1).max())
        self._reached = self._measure_reached(sample)
        self.findings: Counter[str] = Counter()

    def assign(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (n,) int64 nearest centroids of (n, d) float32 rows and (n,) squared distances."""
        rounded = self._arithmetic.prepare(rows)
        margins = 2 * self._reached * self._bound_errors(rows, rounded)
        assignments = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
        for mine, scores, (columns, best, second) in self._scorer.search(rounded):
            unsure = (best - second <= margins[mine]).nonzero()[:, 0]
            if len(unsure):
                compared, places = self._lift(rows[mine]), unsure
                if scores is None:
                    products = rounded.numbers[mine][unsure] @ self._scorer.factor.numbers.t()
                    scores = Scores(products, self._scorer.bias)
                    compared, places = compared[unsure], torch.arange(len(unsure))
                least = best[unsure] - margins[mine][unsure]
                columns[unsure] = self._arithmetic.kernel.compare(
                    scores, least, compared, places, self._compared
                )
            assignments[mine] = columns
            self.findings["num_rechecked"] += len(unsure)
        measured = self._arithmetic.kernel.measure_distances(rows, self._centroids, assignments)
        return assignments, measured

    def list_nearest(
        self, rows: torch.Tensor, assignments: torch.Tensor, num_nearest: int
    ) -> torch.Tensor:
        """Return (n, num_nearest) int64 nearest centroids, the assigned one first.

        It is so even where more are equally near than rounded scores name. The others are ordered
        in float32 among twice as many that those name, so only the end of the list is a matter of
        rounding.
        """
        wanted = min(2 * num_nearest + 8, len(self._centroids))
        nearest = torch.empty(len(rows), num_nearest, dtype=torch.int64, device=rows.device)
        for block, scores in self._scorer.multiply(self._arithmetic.prepare(rows)):
            columns = scores.compute().topk(wanted, 1).indices
            is_named = (columns == assignments[block, None]).any(1)
            columns[:, -1] = torch.where(is_named, columns[:, -1], assignments[block])
            distances = measure_listed(self._lift(rows[block]), self._compared, columns)
            distances[columns == assignments[block, None]] = -1.0
            order = distances.argsort(dim=1, stable=True)[:, :num_nearest]
            nearest[block] = columns.gather(1, order)
        return nearest

    def audit(self, rows: torch.Tensor, assignments: torch.Tensor) -> None:
        """Count how often float64 would have assigned (n, d) rows otherwise."""
        scores = rows.double() @ self._double.t() - self._half_norms
        self.findings["num_audited"] += len(rows)
        self.findings["num_audited_wrong"] += int((scores.argmax(1) != assignments).sum())

    def _lift(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows as they are compared.

        A price is the squared distance in one dimension more, in which all rows are at 0.
        """
        return torch.nn.functional.pad(rows, (0, 1)) if self._is_priced else rows

    def _bound_errors(self, rows: torch.Tensor, rounded: Factor) -> torch.Tensor:
        """Return (n,) float32: how far any score of (n, d) rows can be off, but for a factor.

        A row is multiplied as x + e and a centroid as c + f; with the centroids' bias a score is
        then off by e.(c + f) + f.(x - c), at most |e||c + f| + |f||x - c|, and by the products' own
        rounding. Neither a row at the origin nor one whose numbers are of very different size is
        special then.
        """
        extent = torch.linalg.vector_norm(rows, dim=1) + self._longest  # >= |x - c|
        of_centroids = self._scorer.factor.steps
        is_stepped = rounded.steps is not None  # products are of whole numbers, and exact
        dtype = torch.float32 if is_stepped else rounded.numbers.dtype
        bounds: torch.Tensor = torch.finfo(dtype).eps * self._longest * extent
        bounds += torch.finfo(torch.float32).eps * self._highest  # of biases that hold prices
        if rounded.steps is not None and of_centroids is not None:  # |e| <= sqrt(d) * step / 2
            half = 0.5 * rows.shape[1] ** 0.5
            bounds += half * (rounded.steps * self._longest + of_centroids.max() * extent)
        return bounds

    def _measure_reached(self, sample: torch.Tensor) -> float:
        """Return which part of their bounds errors reach: on (m, d) rows, and half as much more."""
        if not len(sample):
            return 1.0
        num_rows = max(1, min(SAMPLED_ROWS, _SAMPLE_ELEMENTS // len(self._centroids)))
        sample = sample[:: -(-len(sample) // num_rows)]
        truth = sample.double() @ self._double.t() - self._half_norms
        rounded = self._arithmetic.prepare(sample)
        bounds = self._bound_errors(sample, rounded).clamp(min=1e-30)
        largest = 0.0
        for mine, scores in self._scorer.multiply(rounded):
            errors = (scores.compute() - truth[mine]).abs().amax(1)
            largest = max(largest, float((errors / bounds[mine]).max()))
        return _SAFETY * largest


def measure_listed(
    rows: torch.Tensor, centroids: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Return (n, T) float32 squared distances of (n, d) rows from the centroids listed for each."""
    distances = torch.empty(columns.shape, device=rows.device)
    step = count_pairs(rows) // columns.shape[1] or 1
    for start in range(0, len(rows), step):
        mine = slice(start, start + step)
        differences = rows[mine, None] - centroids[columns[mine]]  # (step, T, d)
        distances[mine] = differences.square_().sum(2)
    return distances
