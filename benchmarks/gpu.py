"""The same on a GPU, where there is one: one pass of assignment, and fits, beside GPU peers.

Peers are flash-kmeans and fastkmeans as their packages have them used, a chunked product with
cuBLAS, and an emulation of faiss' dataflow: rows in host memory, uploaded for every iteration,
multiplied in fp32, centroids updated on the host. It is not faiss' own code, which the CPU wheel
lacks. What takes a device works on the CPU too, and is tested there at toy size.

N: rows, D: dimensions, K: num_clusters.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import torch

from benchmarks.cases import Case
from benchmarks.data import Data
from benchmarks.measure import RESULTS, Results, describe
from clusterfit.worker.kmeans.arithmetic import choose_arithmetic
from clusterfit.worker.kmeans.assignment import Scorer

CHUNK_ROWS: Final = 16384
CASE: Final = Case("gpu", "assign", Data("relu", 1_281_167, 2048), 16_000, ())


def find_obstacle() -> str:
    """Return why nothing is measured, or nothing."""
    return "" if torch.cuda.is_available() else "needs a GPU: torch sees none"


def measure_gpu(num_rounds: int, folder: Path = RESULTS) -> None:
    """Time one pass of each side on rows that are made on the GPU."""
    if obstacle := find_obstacle():
        print(f"{CASE.name}: skipped: {obstacle}")
        return
    device = torch.device("cuda")
    rows = torch.rand(CASE.data.num_rows, CASE.data.dim, device=device, dtype=torch.bfloat16)
    centroids = rows[: CASE.num_clusters].clone()
    results = Results(CASE.name, folder)
    results.content |= describe(CASE) | {"records": [], "gpu": torch.cuda.get_device_name()}
    for side, work in list_sides(rows, centroids, device).items():
        seconds = time_on(device, work, num_rounds)
        results.records.append({"side": side, "seconds": seconds, "attempts": []})
        results.save()
        print(f"{CASE.name} {side}: {seconds}", flush=True)


def list_sides(
    rows: torch.Tensor, centroids: torch.Tensor, device: torch.device
) -> dict[str, Callable[[], object]]:
    """Return one pass of each side: assignment alone, and whole iterations where it says so."""
    arithmetic = choose_arithmetic(device, rows.shape[1])
    factor = arithmetic.prepare(rows)
    host_rows, host_centroids = rows.float().cpu(), centroids.float().cpu()
    sides: dict[str, Callable[[], object]] = {
        "bf16 GEMM": lambda: multiply(rows, centroids),
        "chunked cuBLAS": lambda: assign_chunked(rows, centroids),
        "clusterfit": lambda: Scorer(centroids.float(), arithmetic).assign(factor),
        "faiss' dataflow, emulated, one iteration": lambda: iterate_like_faiss(
            host_rows, host_centroids, device
        ),
    }
    if find_spec("flash_kmeans") and device.type == "cuda":
        from flash_kmeans import batch_kmeans_Euclid

        sides["flash-kmeans, one iteration"] = lambda: batch_kmeans_Euclid(
            rows[None], len(centroids), max_iters=1, init_centroids=centroids[None]
        )
    if find_spec("fastkmeans"):
        from fastkmeans import FastKMeans

        kmeans = FastKMeans(
            rows.shape[1], len(centroids), niter=1, device=device, gpu=device.type == "cuda"
        )
        numbers = host_rows.numpy()
        sides["fastkmeans, one iteration"] = lambda: kmeans.train(numbers)
    return sides


def time_on(device: torch.device, work: Callable[[], object], repeats: int) -> list[float]:
    """Return the seconds of each call, after one that is not counted."""
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
