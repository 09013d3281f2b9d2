"""Which numbers the products are made of, and how a row's best centroid is found in them.

K: num_clusters, d: dimensions, n: rows of a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from clusterfit.worker.kmeans.native import BestTwo, NativeKernel, load_native_kernel

MIN_BF16_DIM: Final = 64
"""Below it products take less time than what follows them, and 8 bits are few for a low dimension:
a row has as many bits to tell its neighbours apart as it has dimensions."""

_ADDED_ROWS: Final = 1024
"""Rows that are widened to float64 at a time."""

PAIR_ELEMENTS: Final = 1 << 19
"""Differences of rows and centroids that are held at once: 2 MB, near the cores."""

_FAST_BF16: Final = ("avx512_bf16", "amx_bf16", "bf16")
"""CPU flags of x86 and Arm."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How rows are kept and multiplied on one device."""

    device: torch.device
    dtype: torch.dtype
    """Of rows and centroids in products; what products are summed in is float32 either way."""
    kernel: NativeKernel | None
    reason: str
    """Why it is this dtype and this way of finding the best, for the log."""

    def find_best_two(self, products: torch.Tensor, bias: torch.Tensor) -> BestTwo:
        """Return the two best columns of `products + bias`; the lower column wins a tie."""
        if self.kernel is not None:
            return self.kernel.find_best_two(products, bias)
        scores = products.float() + bias
        if scores.shape[1] == 1:
            best = scores[:, 0]
            return torch.zeros_like(best, dtype=torch.int64), best, best - torch.inf
        best, columns = scores.max(1)
        scores.scatter_(1, columns[:, None], -torch.inf)
        return columns, best, scores.amax(1)

    def compare(
        self,
        products: torch.Tensor,
        bias: torch.Tensor,
        least: torch.Tensor,
        rows: torch.Tensor,
        places: torch.Tensor,
        centroids: torch.Tensor,
    ) -> torch.Tensor:
        """Return (m,) the nearest, in float32, of the columns that score `least` (m,) or more.

        For the (m,) `places` among the (n, d) float32 rows and the (n, K) products; the lower
        column wins a tie.
        """
        if self.kernel is not None:
            return self.kernel.compare(products, bias, least, rows, places, centroids)
        possible = products[places].float() + bias >= least[:, None]
        numbers, columns = possible.nonzero(as_tuple=True)  # rising by row, then by column
        distances = self._measure_pairs(rows, places[numbers], centroids, columns)
        nearest = torch.full((len(places),), torch.inf, device=rows.device)
        nearest.scatter_reduce_(0, numbers, distances, "amin")
        is_nearest = distances == nearest[numbers]
        chosen = torch.full((len(places),), len(centroids), device=rows.device)
        return chosen.scatter_reduce_(0, numbers[is_nearest], columns[is_nearest], "amin")

    def measure_distances(
        self, rows: torch.Tensor, centroids: torch.Tensor, columns: torch.Tensor
    ) -> torch.Tensor:
        """Return (n,) float32 squared distances of (n, d) float32 rows from their centroids."""
        if self.kernel is not None:
            return self.kernel.measure_distances(rows, centroids, columns)
        places = torch.arange(len(rows), device=rows.device)
        return self._measure_pairs(rows, places, centroids, columns)

    def _measure_pairs(
        self,
        rows: torch.Tensor,
        places: torch.Tensor,
        centroids: torch.Tensor,
        columns: torch.Tensor,
    ) -> torch.Tensor:
        distances = torch.empty(len(places), device=rows.device)
        step = max(1, PAIR_ELEMENTS // rows.shape[1])
        for start in range(0, len(places), step):
            pairs = slice(start, start + step)
            differences = rows[places[pairs]] - centroids[columns[pairs]]
            distances[pairs] = differences.square_().sum(1)
        return distances

    def add_rows(self, sums: torch.Tensor, rows: torch.Tensor, assignments: torch.Tensor) -> None:
        """Add (n, d) rows to the (K, d) float64 sums of their (n,) clusters, without rounding."""
        # In the order of their clusters: a sum stays in cache until it is done.
        order = torch.argsort(assignments)
        if self.kernel is not None:
            self.kernel.add_rows(sums, rows, order, assignments)
            return
        for start in range(0, len(rows), _ADDED_ROWS):
            taken = order[start : start + _ADDED_ROWS]
            sums.index_add_(0, assignments[taken], rows[taken].double())


def choose_arithmetic(device: torch.device, dim: int) -> Arithmetic:
    """Return bfloat16 where the device is fast at it and the rows are long enough for it."""
    kernel, how = load_native_kernel() if device.type == "cpu" else (None, "GPU: torch's own")
    has_bf16 = device.type == "cuda" or has_fast_bf16()
    if not has_bf16:
        dtype, why = torch.float32, "float32: this CPU has no AVX512-BF16, AMX or Arm BF16"
    elif dim < MIN_BF16_DIM:
        dtype, why = torch.float32, f"float32: below {MIN_BF16_DIM} dimensions"
    else:
        dtype, why = torch.bfloat16, "bfloat16: the device is fast at it"
    way = f"best of a row: {how}" if kernel or device.type == "cuda" else f"torch alone: {how}"
    return Arithmetic(device, dtype, kernel, f"{why}; {way}")


def has_fast_bf16() -> bool:
    """Tell whether this CPU multiplies bfloat16 faster than float32."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith(("flags", "Feat"))), "")
    return not set(_FAST_BF16).isdisjoint(flags.split())
