"""The loops that torch has no fast operation for on a CPU, compiled where they run.

torch finds a row's maximum and its place at about 1 ns an element, which is a fifth of the matrix
product before it at 2048 dimensions and as long as it at 512; and it adds up rows by cluster in
several passes over copies. Rows of a few dimensions take less time to multiply than their products
take to write. `torch.compile` mends the first, but importing and warming it takes
longer than many clusterings; this C++ takes a fifth of a second, once.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import torch

_SOURCE: Final = Path(__file__).with_name("native.cpp")
_FLAGS: Final = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC")
_COMPILERS: Final = ("g++", "clang++", "c++")
LANES: Final = 16
"""Of the C++'s vectors."""

_MIN_ELEMENTS_PER_THREAD: Final = 1 << 17
"""Below it, handing a share to a thread takes longer than the share."""

BestTwo = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Of each row: (n,) int64 best column, (n,) float32 its score, (n,) float32 the second's."""


class NativeKernel:
    """The functions of native.cpp on as many threads as torch uses."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """Use a library that `load_native_kernel` has compiled."""
        self._best = _load(library, "find_best_two", "ppnnnppp")
        self._add = _load(library, "add_rows", "pppnnnnpn")
        self._compare = _load(library, "compare", "ppnnppnppnp")
        self._measure = library.measure_distances
        self._measure.argtypes, self._measure.restype = _arguments("pppnnp"), None
        self._search = library.search_float32
        self._search.argtypes, self._search.restype = _arguments("pppnnnppp"), None
        self._num_threads = torch.get_num_threads()
        self._threads = ThreadPoolExecutor(self._num_threads, "kmeans")

    def find_best_two(self, products: torch.Tensor, bias: torch.Tensor) -> BestTwo:
        """Return the two best columns of `products + bias`, products (n, K) with unit stride."""
        num_rows, num_columns = products.shape
        columns = torch.empty(num_rows, dtype=torch.int64)
        best, second = torch.empty(num_rows), torch.empty(num_rows)
        function, stride = self._best[products.dtype], products.stride(0)
        width = products.element_size() * stride

        def work(start: int, stop: int) -> None:
            function(
                products.data_ptr() + start * width,
                bias.data_ptr(),
                stop - start,
                num_columns,
                stride,
                columns.data_ptr() + 8 * start,
                best.data_ptr() + 4 * start,
                second.data_ptr() + 4 * start,
            )

        self._share_out(work, num_rows, products.numel())
        return columns, best, second

    def search(self, rows: torch.Tensor, centroids: torch.Tensor, bias: torch.Tensor) -> BestTwo:
        """Return the two best columns of `rows @ centroids + bias` for short float32 rows.

        Centroids are (d, K), K a multiple of LANES, all three contiguous.
        """
        num_rows, dim = rows.shape
        columns = torch.empty(num_rows, dtype=torch.int64)
        best, second = torch.empty(num_rows), torch.empty(num_rows)

        def work(start: int, stop: int) -> None:
            self._search(
                rows.data_ptr() + 4 * start * dim,
                centroids.data_ptr(),
                bias.data_ptr(),
                stop - start,
                centroids.shape[1],
                dim,
                columns.data_ptr() + 8 * start,
                best.data_ptr() + 4 * start,
                second.data_ptr() + 4 * start,
            )

        self._share_out(work, num_rows, num_rows * centroids.shape[1])
        return columns, best, second

    def compare(
        self,
        products: torch.Tensor,
        bias: torch.Tensor,
        least: torch.Tensor,
        rows: torch.Tensor,
        places: torch.Tensor,
        centroids: torch.Tensor,
    ) -> torch.Tensor:
        """Return the nearest of the columns that score enough; see `Arithmetic.compare`."""
        rows = rows.contiguous()
        columns = torch.empty(len(places), dtype=torch.int64)

        def work(start: int, stop: int) -> None:
            self._compare[products.dtype](
                products.data_ptr(),
                bias.data_ptr(),
                len(bias),
                products.stride(0),
                rows.data_ptr(),
                centroids.data_ptr(),
                rows.shape[1],
                places.data_ptr() + 8 * start,
                least.data_ptr() + 4 * start,
                stop - start,
                columns.data_ptr() + 8 * start,
            )

        self._share_out(work, len(places), len(places) * len(bias))
        return columns

    def measure_distances(
        self, rows: torch.Tensor, centroids: torch.Tensor, columns: torch.Tensor
    ) -> torch.Tensor:
        """Return squared distances from the rows' own centroids; see `Arithmetic`."""
        rows = rows.contiguous()
        num_rows, dim = rows.shape
        distances = torch.empty(num_rows)

        def work(start: int, stop: int) -> None:
            self._measure(
                rows.data_ptr() + 4 * start * dim,
                centroids.data_ptr(),
                columns.data_ptr() + 8 * start,
                stop - start,
                dim,
                distances.data_ptr() + 4 * start,
            )

        self._share_out(work, num_rows, rows.numel())
        return distances

    def add_rows(
        self,
        sums: torch.Tensor,
        rows: torch.Tensor,
        order: torch.Tensor,
        assignments: torch.Tensor,
    ) -> None:
        """Add (n, d) rows to the (K, d) float64 sums of their clusters, in an order of rows."""
        function = self._add[rows.dtype]

        def work(start: int, stop: int) -> None:
            function(
                rows.data_ptr(),
                order.data_ptr(),
                assignments.data_ptr(),
                len(order),
                rows.stride(0),
                start,
                stop,
                sums.data_ptr(),
                sums.shape[1],
            )

        self._share_out(work, rows.shape[1], rows.numel())

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


def _load(
    library: ctypes.CDLL, name: str, signature: str
) -> dict[torch.dtype, Callable[..., None]]:
    """Return a function for each dtype."""
    functions: dict[torch.dtype, Callable[..., None]] = {}
    for dtype in (torch.bfloat16, torch.float32):
        function = getattr(library, f"{name}_{str(dtype).removeprefix('torch.')}")
        function.argtypes, function.restype = _arguments(signature), None
        functions[dtype] = function
    return functions


def _arguments(signature: str) -> list[Any]:
    """Return argument types; `p` in the signature is a pointer, `n` a number."""
    kinds = {"p": ctypes.c_void_p, "n": ctypes.c_int64}
    return [kinds[kind] for kind in signature]


def load_native_kernel() -> tuple[NativeKernel | None, str]:
    """Return the compiled loop, or None, and the reason.

    The library is kept in the user's cache folder under the digest of its source, flags and
    machine, so only the first process of a machine compiles.
    """
    compiler = next((path for name in _COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        return None, f"no C++ compiler ({', '.join(_COMPILERS)}) on PATH"
    try:
        return NativeKernel(ctypes.CDLL(str(_compile(compiler)))), f"compiled by {compiler}"
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["no message"]
        return None, f"{compiler} failed: {lines[0]}"
    except OSError as error:
        return None, f"{compiler}: {error.strerror or error}"


def _compile(compiler: str) -> Path:
    machine = [platform.machine(), _read_cpu_flags(), compiler, *_FLAGS]
    digest = hashlib.sha256(_SOURCE.read_bytes() + "\n".join(machine).encode()).hexdigest()[:16]
    target = _find_cache_folder() / f"kmeans-{digest}.so"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        built = Path(folder) / "kmeans.so"
        subprocess.run(
            [compiler, *_FLAGS, "-o", str(built), str(_SOURCE)],
            check=True,
            capture_output=True,
            text=True,
        )
        built.replace(target)  # ranks that compile at once replace equal files
    return target


def _find_cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "clusterfit"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    except OSError:  # a home that cannot be written
        return Path(tempfile.mkdtemp(prefix="clusterfit-"))


def _read_cpu_flags() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
