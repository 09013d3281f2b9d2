"""Which numbers rows and products are made of on one device, and who does the loops beside them."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

import torch

from clusterfit.worker.cpu_flags import read_cpu_flags
from clusterfit.worker.kmeans.kernel import Kernel
from clusterfit.worker.kmeans.native import load_native_kernel
from clusterfit.worker.kmeans.portable import PortableKernel
from clusterfit.worker.kmeans.products import Factor, Scores, pad
from clusterfit.worker.kmeans.ranks import Ranks

MIN_ROUNDED_DIM: Final = 64
"""Below it products take less time than what follows them, and 8 bits are few for a low dimension:
a row has as many bits to tell its neighbours apart as it has dimensions."""

_FAST: Final = {
    torch.int8: ({"avx512_vnni", "avx_vnni", "amx_int8"}, "AVX-VNNI or AMX"),
    torch.bfloat16: ({"avx512_bf16", "amx_bf16", "bf16"}, "AVX512-BF16 or Arm BF16"),
}
"""What of a CPU's flags (x86, Arm) says that it multiplies a dtype faster than float32; the first
of them is taken. AVX512-BF16 alone is no faster than float32 on some Intel CPUs; all of them are
fast at int8."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How rows are kept and multiplied on one device."""

    device: torch.device
    dtype: torch.dtype
    """Of rows as they are kept and added up: bfloat16 or float32."""
    product_dtype: torch.dtype
    """Of rows and centroids in matrix products: int8, bfloat16 or float32."""
    kernel: Kernel
    reason: str
    """Why it is these dtypes and this kernel, for the log."""

    @property
    def row_bytes(self) -> int:
        """Bytes of a number of a row that is kept."""
        return self.dtype.itemsize + (1 if self.copies else 0)

    @property
    def copies(self) -> bool:
        """Whether products are of rows rounded once more."""
        return self.product_dtype == torch.int8

    def widen(self, reason: str) -> Arithmetic:
        """Return float32 on the same device by the same kernel."""
        return replace(self, dtype=torch.float32, product_dtype=torch.float32, reason=reason)

    def prepare(self, rows: torch.Tensor) -> Factor:
        """Return (n, d) rows or centroids as they are multiplied, maybe with more dimensions."""
        if self.copies:
            return self.kernel.round_rows(rows)
        return Factor(pad(rows.to(self.product_dtype)))


def choose_arithmetic(device: torch.device, dim: int, ranks: Ranks | None = None) -> Arithmetic:
    """Return rounded numbers where the device is fast at them and the rows are long enough.

    Given the ranks, who all call it then, the numbers are of the same dtypes on all of them. Each
    has its own kernel.
    """
    compiled, how = load_native_kernel() if device.type == "cpu" else load_triton_kernel(device)
    products, why = find_fast_products(device, ranks)
    if dim < MIN_ROUNDED_DIM:
        products, why = torch.float32, f"float32: below {MIN_ROUNDED_DIM} dimensions"
    rows = torch.float32 if products == torch.float32 else torch.bfloat16
    way = f"loops: {how}" if compiled else f"torch alone: {how}"
    return Arithmetic(device, rows, products, compiled or PortableKernel(), f"{why}; {way}")


@cache
def load_triton_kernel(device: torch.device) -> tuple[Kernel | None, str]:
    """Return the loops for a GPU, or None, and the reason."""
    try:
        from clusterfit.worker.kmeans.triton_kernel import TritonKernel
    except ImportError as error:
        return None, f"no Triton: {error}"
    kernel = TritonKernel()
    try:  # it needs a C compiler, and finds out when it is used
        kernel.find_best_two(Scores(torch.ones(1, 1, device=device), torch.ones(1, device=device)))
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        return None, f"Triton: {error}".splitlines()[0]
    return kernel, "compiled by Triton"


def find_fast_products(device: torch.device, ranks: Ranks | None = None) -> tuple[torch.dtype, str]:
    """Return the dtype that a device multiplies fastest, and why it is that.

    Given the ranks, it is one that all are fast at: nodes' CPUs may be of different kinds, and
    ranks whose rows are rounded tell each other more than others do.
    """
    if device.type == "cuda":
        return torch.bfloat16, "bfloat16: the GPU is fast at it"
    flags = read_cpu_flags()
    own = torch.tensor([not names.isdisjoint(flags) for names, _ in _FAST.values()]).long()
    bounds = torch.stack([own, -own])
    if ranks is not None:
        ranks.take_minimum(bounds)
    differs = "" if bool((bounds[0] == -bounds[1]).all()) else "; other ranks' CPUs are different"
    for (dtype, (_, said)), is_fast in zip(_FAST.items(), bounds[0].tolist(), strict=True):
        if is_fast:
            name = str(dtype).removeprefix("torch.")
            return dtype, f"{name} products: this CPU has {said}{differs}"
    if differs:
        return (
            torch.float32,
            "float32: the ranks' CPUs are different, and no other dtype is fast on all",
        )
    return torch.float32, "float32: this CPU has none of VNNI, AVX512-BF16, AMX and Arm BF16"


def has_fast_products() -> bool:
    """Tell whether this CPU multiplies rounded numbers faster than float32."""
    return find_fast_products(torch.device("cpu"))[0] != torch.float32
