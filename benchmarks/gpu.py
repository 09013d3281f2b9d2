"""The same on a GPU, where there is one: one pass of assignment, and fits, beside GPU peers.

Peers are flash-kmeans and fastkmeans as their packages have them used, a chunked product with
cuBLAS, and an emulation of faiss' dataflow: rows in host memory, uploaded for every iteration,
multiplied in fp32, centroids updated on the host. It is not faiss' own code, which the CPU wheel
lacks. What takes a device works on the CPU too, and is tested there at toy size.

N: rows, D: dimensions, K: num_clusters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch

CHUNK_ROWS: Final = 16384


def find_obstacle() -> str:
    """Return why nothing is measured, or nothing."""
    return "" if torch.cuda.is_available() else "needs a GPU: torch sees none"


def time_on(device: torch.device, work: Callable[[], object], repeats: int) -> list[float]:
    """Return the seconds of each call, after one that is not counted."""
    import time

    work()
    seconds = []
    for _ in range(repeats):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return seconds


def multiply(rows: torch.Tensor, centroids: torch.Tensor) -> None:
    """Multiply all rows with all centroids and drop the products: the GPU's own rate."""
    products = torch.empty(
        (CHUNK_ROWS, len(centroids)), dtype=rows.dtype, device=rows.device
    )  # (n, K)
    for first in range(0, len(rows), CHUNK_ROWS):
        block = rows[first : first + CHUNK_ROWS]
        torch.mm(block, centroids.T, out=products[: len(block)])


def assign_chunked(rows: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """Return (N,) nearest centroids by chunked products and a maximum of each row."""
    bias = centroids.float().square().sum(1).mul_(-0.5)
    nearest = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    for first in range(0, len(rows), CHUNK_ROWS):
        block = rows[first : first + CHUNK_ROWS]
        nearest[first : first + len(block)] = (block @ centroids.T).float().add_(bias).argmax(1)
    return nearest


def iterate_like_faiss(
    rows: torch.Tensor, centroids: torch.Tensor, device: torch.device
) -> torch.Tensor:
    """Return (K, D) centroids after one iteration of faiss' dataflow, an emulation.

    Args:
        rows: (N, D) float32 in host memory.
        centroids: (K, D) float32 in host memory.
        device: where products are made.
    """
    uploaded = centroids.to(device)
    bias = uploaded.square().sum(1).mul_(-0.5)
    sums, counts = torch.zeros_like(centroids), torch.zeros(len(centroids))
    for first in range(0, len(rows), CHUNK_ROWS):
        block = rows[first : first + CHUNK_ROWS]
        nearest = torch.addmm(bias, block.to(device), uploaded.T).argmax(1).cpu()
        sums.index_add_(0, nearest, block)
        counts += torch.bincount(nearest, minlength=len(centroids))
    return torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centroids)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
