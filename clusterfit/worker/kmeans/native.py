"""The loops that torch has no fast operation for on a CPU, compiled where they run.

torch finds a row's maximum and its place at about 1 ns an element, which is a fifth of the matrix
product before it at 2048 dimensions and as long as it at 512; and it adds up rows by cluster in
several passes over copies. Rows of a few dimensions take less time to multiply than their products
take to write. `torch.compile` mends the first, but importing and warming it takes
longer than many clusterings; this C++ takes two seconds, once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Final

import torch

from clusterfit.worker.kmeans.kernel import BestTwo
from clusterfit.worker.kmeans.native_library import load_library
from clusterfit.worker.kmeans.products import Factor, Scores

LANES: Final = 16
"""Of the C++'s vectors."""

_MIN_ELEMENTS_PER_THREAD: Final = 1 << 17
"""Below it, handing a share to a thread takes longer than the share."""

_PRODUCTS: Final = (torch.int32, torch.bfloat16, torch.float32)
_ROWS: Final = (torch.bfloat16, torch.float32)


class NativeKernel:
    """The functions of native.cpp on as many threads as torch uses; see `Kernel`."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """Use a library that `load_library` has compiled."""
        self._best = _load(library, "find_best_two", "pnpppnnppp", _PRODUCTS)
        self._list = _load(library, "list_best", "pnpppnnnp", _PRODUCTS)
        self._compare = _load(library, "compare", "pnpppnppnppnp", _PRODUCTS)
        self._choose = _load(library, "choose", "pnppnpnpnp", _ROWS)
        self._enter = _load(library, "enter_rows", "pnnpdpp", _ROWS)
        self._round = _load(library, "round_rows", "pnnnpp", _ROWS)
        self._add = _load(library, "add_rows", "pppnnnnpnd", _ROWS)
        self._measure = _load(library, "measure_distances", "pppnnp")
        self._search = _load(library, "search_float32", "pppnnnppp")
        self._num_threads = torch.get_num_threads()
        self._threads = ThreadPoolExecutor(self._num_threads, "kmeans")

    def find_best_two(self, scores: Scores) -> BestTwo:
        """Return the two best columns of each row; the lower column wins a tie."""
        num_rows, num_columns = scores.products.shape
        columns = torch.empty(num_rows, dtype=torch.int64)
        best, second = torch.empty(num_rows), torch.empty(num_rows)

        def work(start: int, stop: int) -> None:
            self._best[scores.products.dtype](
                *_point_to(scores, start),
                stop - start,
                num_columns,
                _at(columns, start),
                _at(best, start),
                _at(second, start),
            )

        self._share_out(work, num_rows, scores.products.numel())
        return columns, best, second

    def list_best(self, scores: Scores, num_listed: int) -> torch.Tensor:
        """Return the (n, T) int32 columns that score highest, rising in each row."""
        num_rows, num_columns = scores.products.shape
        listed = torch.empty(num_rows, num_listed, dtype=torch.int32)

        def work(start: int, stop: int) -> None:
            self._list[scores.products.dtype](
                *_point_to(scores, start), stop - start, num_columns, num_listed, _at(listed, start)
            )

        self._share_out(work, num_rows, scores.products.numel())
        return listed

    def search(self, rows: torch.Tensor, centroids: torch.Tensor, bias: torch.Tensor) -> BestTwo:
        """Return the two best columns of `rows @ centroids + bias` for short float32 rows.

        Centroids are (d, K), K a multiple of LANES, all three contiguous.
        """
        num_rows, dim = rows.shape
        columns = torch.empty(num_rows, dtype=torch.int64)
        best, second = torch.empty(num_rows), torch.empty(num_rows)

        def work(start: int, stop: int) -> None:
            self._search(
                _at(rows, start),
                _at(centroids, 0),
                _at(bias, 0),
                stop - start,
                centroids.shape[1],
                dim,
                _at(columns, start),
                _at(best, start),
                _at(second, start),
            )

        self._share_out(work, num_rows, num_rows * centroids.shape[1])
        return columns, best, second

    def compare(
        self,
        scores: Scores,
        least: torch.Tensor,
        rows: torch.Tensor,
        places: torch.Tensor,
        centroids: torch.Tensor,
    ) -> torch.Tensor:
        """Return the nearest of the columns that score enough."""
        rows = rows.contiguous()
        num_columns = len(scores.bias)
        columns = torch.empty(len(places), dtype=torch.int64)

        def work(start: int, stop: int) -> None:
            self._compare[scores.products.dtype](
                *_point_to(scores, 0),
                num_columns,
                _at(rows, 0),
                _at(centroids, 0),
                rows.shape[1],
                _at(places, start),
                _at(least, start),
                stop - start,
                _at(columns, start),
            )

        self._share_out(work, len(places), len(places) * num_columns)
        return columns

    def choose(
        self,
        rows: torch.Tensor,
        lists: torch.Tensor,
        centroids: torch.Tensor,
        bias: torch.Tensor,
        order: torch.Tensor,
    ) -> torch.Tensor:
        """Return of the centroids that a row's list names the one it scores best."""
        columns = torch.empty(len(rows), dtype=torch.int64)
        num_listed, dim = lists.shape[1], rows.shape[1]

        def work(start: int, stop: int) -> None:
            self._choose[rows.dtype](
                _at(rows, 0),
                rows.stride(0),
                _at(centroids, 0),
                _at(bias, 0),
                dim,
                _at(order, start),
                stop - start,
                _at(lists, 0),
                num_listed,
                _at(columns, 0),
            )

        self._share_out(work, len(rows), len(rows) * num_listed * dim)
        return columns

    def measure_distances(
        self, rows: torch.Tensor, centroids: torch.Tensor, columns: torch.Tensor
    ) -> torch.Tensor:
        """Return squared distances from the rows' own centroids."""
        rows = rows.contiguous()
        num_rows, dim = rows.shape
        distances = torch.empty(num_rows)

        def work(start: int, stop: int) -> None:
            self._measure(
                _at(rows, start),
                _at(centroids, 0),
                _at(columns, start),
                stop - start,
                dim,
                _at(distances, start),
            )

        self._share_out(work, num_rows, rows.numel())
        return distances

    def enter_rows(
        self, raw: torch.Tensor, mean: torch.Tensor, rounder: float, rows: torch.Tensor
    ) -> torch.Tensor:
        """Write raw rows minus the mean, on their grid, to `rows`; return their squared norms."""
        num_rows, dim = raw.shape
        norms_sq = torch.empty(num_rows)

        def work(start: int, stop: int) -> None:
            self._enter[rows.dtype](
                _at(raw, start),
                stop - start,
                dim,
                _at(mean, 0),
                rounder,
                _at(rows, start),
                _at(norms_sq, start),
            )

        self._share_out(work, num_rows, raw.numel())
        return norms_sq

    def round_rows(self, rows: torch.Tensor) -> Factor:
        """Return rows rounded to int8, each by a step of its own."""
        num_rows, dim = rows.shape
        rounded = torch.empty(num_rows, dim, dtype=torch.int8)
        steps = torch.empty(num_rows)

        def work(start: int, stop: int) -> None:
            self._round[rows.dtype](
                _at(rows, start), stop - start, dim, rows.stride(0), _at(rounded, start),
                _at(steps, start),
            )  # fmt: skip

        self._share_out(work, num_rows, rows.numel())
        return Factor(rounded, steps)

    def add_rows(
        self,
        sums: torch.Tensor,
        rows: torch.Tensor,
        order: torch.Tensor,
        clusters: torch.Tensor,
        sign: int = 1,
    ) -> None:
        """Add rows to the sums of their clusters, or take them away."""
        function, dim = self._add[rows.dtype], sums.shape[1]

        def work(start: int, stop: int) -> None:
            function(
                _at(rows, 0),
                _at(order, 0),
                _at(clusters, 0),
                len(order),
                rows.stride(0),
                start,
                stop,
                _at(sums, 0),
                dim,
                sign,
            )

        self._share_out(work, dim, len(order) * dim)

    def _share_out(self, work: Callable[[int, int], None], total: int, num_elements: int) -> None:
        """Call `work` on shares of 0..total-1, at once where that is worth a thread."""
        wanted = num_elements // _MIN_ELEMENTS_PER_THREAD
        num_shares = max(1, min(self._num_threads, wanted, total))
        bounds = [total * share // num_shares for share in range(num_shares + 1)]
        others = [
            self._threads.submit(work, start, stop)  # ctypes lets the others run meanwhile
            for start, stop in pairwise(bounds[1:])
        ]
        work(bounds[0], bounds[1])
        for other in others:
            other.result()


def load_native_kernel() -> tuple[NativeKernel | None, str]:
    """Return the compiled loops, or None, and the reason."""
    library, reason = load_library()
    return None if library is None else NativeKernel(library), reason


def _at(tensor: torch.Tensor, row: int) -> int:
    """Return the address of a row."""
    return tensor.data_ptr() + row * tensor.stride(0) * tensor.element_size()


def _point_to(scores: Scores, row: int) -> tuple[int | None, ...]:
    """Return the five arguments of scores from this row on."""
    row_steps, column_steps = scores.row_steps, scores.column_steps
    return (
        _at(scores.products, row),
        scores.products.stride(0),
        None if row_steps is None else _at(row_steps, row),
        None if column_steps is None else _at(column_steps, 0),
        _at(scores.bias, 0),
    )


def _load(
    library: ctypes.CDLL, name: str, signature: str, dtypes: tuple[torch.dtype, ...] = ()
) -> Any:
    """Return a function, or one for each dtype; `p` is a pointer, `n` a number, `d` a double."""
    kinds = {"p": ctypes.c_void_p, "n": ctypes.c_int64, "d": ctypes.c_double}
    if dtypes:
        return {
            dtype: _load(library, f"{name}_{str(dtype).removeprefix('torch.')}", signature)
            for dtype in dtypes
        }
    function = getattr(library, name)
    function.argtypes, function.restype = [kinds[kind] for kind in signature], None
    return function
