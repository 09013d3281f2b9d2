"""The loops that torch has no fast operation for on a GPU, in Triton, compiled where they run.

After a matrix product on a GPU's tensor cores, torch's own operations read and write the products
several times, in float32; here they are read once. And sums by cluster are added up row after row
in registers, in the order of the clusters, where torch adds each number in memory. What
`torch.compile` makes of a maximum is as fast, but it takes seconds to begin with, and would find
the second best in another pass; docs/benchmarks.md has both.

n: rows, m: rows that take part, K: num_clusters, d: dimensions.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl

from clusterfit.worker.kmeans.kernel import BestTwo
from clusterfit.worker.kmeans.portable import PortableKernel
from clusterfit.worker.kmeans.products import Scores

_MOST_LANES: Final = 2048
"""Products of a row that are compared at a time, or dimensions that are added up."""

_ADDED_ROWS: Final = 64
"""Rows that one program adds up, one after another."""


class TritonKernel(PortableKernel):
    """See `Kernel`; what is not worth a kernel is torch's."""

    def find_best_two(self, scores: Scores) -> BestTwo:
        """Return the two best columns of each row; the lower column wins a tie."""
        products = scores.products
        num_rows, num_columns = products.shape
        if scores.row_steps is not None:
            return super().find_best_two(scores)
        columns = torch.empty(num_rows, dtype=torch.int64, device=products.device)
        best = torch.empty(num_rows, device=products.device)
        second = torch.empty_like(best)
        num_lanes = min(_MOST_LANES, triton.next_power_of_2(num_columns))
        _find_best_two[(num_rows,)](
            products,
            products.stride(0),
            scores.bias,
            num_columns,
            columns,
            best,
            second,
            num_lanes=num_lanes,
        )
        return columns, best, second

    def add_rows(
        self,
        sums: torch.Tensor,
        rows: torch.Tensor,
        order: torch.Tensor,
        clusters: torch.Tensor,
        sign: int = 1,
    ) -> None:
        """Add (n, d) rows, or take them away, in (K, d) float64 sums, without rounding."""
        if not len(order):
            return
        dim = rows.shape[1]
        num_lanes = min(_MOST_LANES, triton.next_power_of_2(dim))
        _add_rows[(triton.cdiv(len(order), _ADDED_ROWS), triton.cdiv(dim, num_lanes))](
            sums,
            rows,
            rows.stride(0),
            order,
            clusters,
            len(order),
            dim,
            float(sign),
            num_rows=_ADDED_ROWS,
            num_lanes=num_lanes,
        )


@triton.jit
def _find_best_two(  # one program a row
    products, stride, bias, num_columns, columns, best, second, num_lanes: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, num_lanes)
    highest = tl.full([num_lanes], float("-inf"), tl.float32)
    next_highest = tl.full([num_lanes], float("-inf"), tl.float32)
    places = tl.zeros([num_lanes], tl.int32)
    for first in range(0, num_columns, num_lanes):
        mine = first + lanes
        is_column = mine < num_columns
        scores = tl.load(products + row * stride + mine, is_column, other=0.0).to(tl.float32)
        scores += tl.load(bias + mine, is_column, other=float("-inf"))
        is_higher = scores > highest
        next_highest = tl.where(is_higher, highest, tl.maximum(next_highest, scores))
        places = tl.where(is_higher, mine, places)
        highest = tl.where(is_higher, scores, highest)
    top = tl.max(highest, 0)
    column = tl.min(tl.where(highest == top, places, num_columns), 0)
    is_winner = (highest == top) & (places == column)
    # Where scores are no numbers none is the highest.
    tl.store(columns + row, tl.where(column < num_columns, column, 0).to(tl.int64))
    tl.store(best + row, top)
    tl.store(second + row, tl.max(tl.where(is_winner, next_highest, highest), 0))


@triton.jit
def _add_rows(  # one program for some rows and dimensions
    sums, rows, stride, order, clusters, num_added, dim, sign,
    num_rows: tl.constexpr, num_lanes: tl.constexpr
):  # fmt: skip
    first = tl.program_id(0) * num_rows
    last = tl.minimum(first + num_rows, num_added)
    mine = tl.program_id(1) * num_lanes + tl.arange(0, num_lanes)
    is_column = mine < dim
    total = tl.zeros([num_lanes], tl.float64)
    cluster = tl.load(clusters + tl.load(order + first))
    for place in range(first, last):
        row = tl.load(order + place)
        its_cluster = tl.load(clusters + row)
        if its_cluster != cluster:
            tl.atomic_add(sums + cluster * dim + mine, total, is_column, sem="relaxed")
            total = tl.zeros([num_lanes], tl.float64)
            cluster = its_cluster
        total += sign * tl.load(rows + row * stride + mine, is_column, other=0.0).to(tl.float64)
    tl.atomic_add(sums + cluster * dim + mine, total, is_column, sem="relaxed")
