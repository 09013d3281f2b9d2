"""What rounding the rows adds to the objective, measured on some of them, so as to give it up.

Rows and products are rounded because that is faster, and it changes next to nothing while rows lie
much further from their centroids than rounding moves them. Whether they do depends on the
centroids, so it is asked of the first ones and again in each iteration.

K: num_clusters, d: dimensions, n: rows of this rank, m: probed ones among them.
"""

from __future__ import annotations

from typing import Final

import torch

from clusterfit.worker.kmeans.arithmetic import Arithmetic
from clusterfit.worker.kmeans.assignment import Scorer
from clusterfit.worker.kmeans.candidates import Candidates
from clusterfit.worker.kmeans.rank_rows import Chunk, Frame
from clusterfit.worker.kmeans.ranks import Ranks
from clusterfit.worker.kmeans.rows import RowSource, read_numbers

MAX_EXCESS: Final = 1e-3
"""Of the objective: rounding is given up where this much of it may be rounding's."""

_PROBED_ROWS: Final = 256
"""Of all ranks together."""


class Probe:
    """Some rows as float32 has them, beside what rounding makes of them.

    Rounding adds in two ways. Rows go to centroids that are not the nearest: `misses`. And the
    means are of rounded rows, off by as much as these are on average: usually by nothing, but where
    the rows of a cluster are so close to each other that all are rounded alike, by all of it. So
    `noise`, the sum of squared differences, is what that adds at most.
    """

    def __init__(
        self,
        source: RowSource,
        frame: Frame,
        arithmetic: Arithmetic,
        start: int,
        stop: int,
        ranks: Ranks,
    ) -> None:
        """Read the probed ones of this rank's rows start..stop-1."""
        step = max(1, source.num_rows // _PROBED_ROWS)
        numbers = range(start + -start % step, stop, step)
        raw = torch.from_numpy(read_numbers(source, numbers))
        self.places = torch.tensor(numbers, dtype=torch.int64) - start
        """(m,) int64: where the probed rows are among this rank's."""
        self.places = self.places.to(arithmetic.device)
        self._scale = source.num_rows / -(-source.num_rows // step)
        self._rows = torch.empty(raw.shape, device=arithmetic.device)
        frame.enter(raw, self._rows, arithmetic.kernel)
        self._arithmetic = arithmetic
        self._ranks = ranks
        rounded = self._rows.to(arithmetic.dtype).float()
        [self._noise] = self._add_up((self._rows - rounded).double().square().sum())

    def measure_start(self, centroids: torch.Tensor, num_candidates: int) -> float:
        """Return which part of the objective of (K, d) first centroids may be rounding's."""
        chunk = Chunk(self._rows.to(self._arithmetic.dtype), self._arithmetic)
        candidates = Candidates(len(chunk), num_candidates, self._arithmetic)
        candidates.take(centroids)
        chosen = torch.zeros_like(self.places)
        if len(chunk):
            scorer = Scorer(centroids, self._arithmetic)
            chosen = candidates.assign(chunk, slice(0, len(chunk)), chosen, scorer)
        return self._compare(*self._measure(centroids, chosen))

    def measure_pass(
        self, centroids: torch.Tensor, assignments: torch.Tensor | None, objective: float
    ) -> float:
        """Return which part of the objective of a pass over all rows may be rounding's.

        Where it compared them with all (K, d) centroids, this rank's (n,) int64 assignments tell
        what it has missed.
        """
        misses = 0.0
        if assignments is not None:
            misses, _ = self._measure(centroids, assignments[self.places])
        return self._compare(misses, objective)

    def _compare(self, misses: float, objective: float) -> float:
        added = self._noise + misses
        return added / max(objective + added, 1e-300)

    def _measure(self, centroids: torch.Tensor, chosen: torch.Tensor) -> tuple[float, float]:
        """Return what choices that are not the nearest add, and the objective, of all rows."""
        wide = self._arithmetic.widen("")
        nearest = Scorer(centroids, wide).assign(wide.prepare(self._rows))
        spent, least = (
            wide.kernel.measure_distances(self._rows, centroids, columns).sum(dtype=torch.float64)
            for columns in (chosen, nearest)
        )
        misses, objective = self._add_up(spent - least, spent)
        return max(0.0, misses), objective

    def _add_up(self, *sums: torch.Tensor) -> list[float]:
        """Return what is summed up over ranks, for all rows instead of the probed ones."""
        total = torch.stack(sums)
        self._ranks.add(total)
        self._ranks.take_rank_0s(total)  # to the last bit: all ranks decide alike
        added: list[float] = (total * self._scale).tolist()
        return added
