"""Few centroids for each row: those that were nearest when it was last compared with all of them.

After a first pass centroids move little, and the next nearest centroid of a row is nearly always
among the few that scored best. K: num_clusters, d: dimensions, n: rows of this rank or of a chunk,
T: candidates of a row.
"""

from __future__ import annotations

import torch

from clusterfit.worker.kmeans.arithmetic import Arithmetic
from clusterfit.worker.kmeans.assignment import Scorer
from clusterfit.worker.kmeans.rank_rows import Chunk


class Candidates:
    """The candidates of all rows of a rank.

    A list depends on the centroids that were scored and on nothing else, so a fit that goes on from
    a checkpoint finds the same ones.
    """

    def __init__(self, num_rows: int, num_candidates: int, arithmetic: Arithmetic) -> None:
        """List so many for each row; with 0 candidates rows are always compared with all."""
        self._num_rows = num_rows
        self._wanted = num_candidates
        self._arithmetic = arithmetic
        self._lists = torch.empty(0)
        self._centroids = torch.empty(0)
        self._bias = torch.empty(0)

    def take(self, centroids: torch.Tensor) -> None:
        """Take the (K, d) float32 centroids that rows are assigned to from now on."""
        self._centroids = centroids.contiguous()
        norms = torch.linalg.vector_norm(centroids, dim=1, dtype=torch.float64)
        self._bias = norms.square().mul(-0.5).float()

    def assign(
        self, chunk: Chunk, mine: slice, before: torch.Tensor, scorer: Scorer | None
    ) -> torch.Tensor:
        """Return the (n,) nearest centroids of a chunk of rows, which are `mine` of this rank's.

        A scorer scores all centroids first and renews the lists; without candidates it decides.
        `before` (n,) are the rows' clusters so far.
        """
        if not self._wanted:
            assert scorer is not None
            return scorer.assign(chunk.factor)
        if scorer is not None:
            num_listed = min(self._wanted, len(self._centroids))
            if len(self._lists) != self._num_rows:
                self._lists = torch.empty(
                    self._num_rows, num_listed, dtype=torch.int32, device=self._arithmetic.device
                )
            self._lists[mine] = scorer.list_best(chunk.factor, num_listed)
        # In the order of their clusters rows have much the same candidates, which stay in cache.
        order = torch.argsort(before)
        return self._arithmetic.kernel.choose(
            chunk.rows, self._lists[mine], self._centroids, self._bias, order
        )


def is_renewed_at(iteration: int) -> bool:
    """Tell whether lists are renewed at this iteration whatever happens: at 0, 1, 3, 7, 15, ...

    Centroids move ever less, so a list is good for ever longer.
    """
    return iteration & (iteration + 1) == 0
