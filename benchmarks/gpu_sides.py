"""What each side does on a GPU, task by task; what takes a device works on the CPU too.

Peers are flash-kmeans and fastkmeans as their packages have them used, products with cuBLAS a chunk
of rows at a time, and an emulation of faiss' dataflow: rows in host memory, uploaded for every
iteration, multiplied in fp32, centroids updated on the host. It is not faiss' own code, which the
CPU wheel lacks; fifty of its iterations would take longer than all else here, so it does one.

N: rows, D: dimensions, K: num_clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from typing import Final, Literal

import torch

from clusterfit.config.sections.clustering import Cluster
from clusterfit.worker.kmeans.arithmetic import choose_arithmetic
from clusterfit.worker.kmeans.assignment import Scorer
from clusterfit.worker.kmeans.lloyd import Lloyd
from clusterfit.worker.kmeans.pulse import Pulse
from clusterfit.worker.kmeans.rank_rows import RankRows, find_frame, prepare_rows
from clusterfit.worker.kmeans.ranks import Ranks
from clusterfit.worker.kmeans.rows import ArrayRows
from clusterfit.worker.kmeans.torch_engine import TorchEngine

CHUNK_ROWS: Final = 16384
NUM_ITERATIONS: Final = 50
"""Of Lloyd's algorithm: where they end is the objective that fits are to reach."""

OUR_ITERATIONS: Final = (20, 24, 28)
"""After the two-level start; the fastest that reaches the objective counts."""

LLOYD: Final = "chunked cuBLAS"
COMPILED: Final = "chunked cuBLAS, torch.compile"
OURS: Final = "clusterfit"
GEMM: Final = "bf16 GEMM"
FLASH: Final = "flash-kmeans"

Task = Literal["assign", "iterate", "fit"]
Work = Callable[[], torch.Tensor | None]
"""Returns (N,) assignments, or (K, D) centroids; nothing of a mere product."""


@dataclass(frozen=True, slots=True)
class GpuSide:
    """A program with what it does of one task."""

    task: Task
    name: str
    attempts: Mapping[str, Work]


class GpuInputs:
    """The rows and the first centroids, in the forms that interfaces take."""

    def __init__(self, rows: torch.Tensor, centroids: torch.Tensor, device: torch.device) -> None:
        """Take (N, D) and (K, D) float32 in host memory."""
        self.host_rows = rows
        self.host_centroids = centroids
        self.device = device
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.rows = rows.to(device, self.dtype)
        self.centroids = centroids.to(device, self.dtype)

    @cached_property
    def our_rows(self) -> tuple[RankRows, torch.Tensor]:
        """The rows as clusterfit keeps them, and the centroids in their frame."""
        source, ranks = ArrayRows(self.host_rows.numpy()), Ranks()
        arithmetic = choose_arithmetic(self.device, source.dim)
        frame = find_frame(source, 0, source.num_rows, ranks, Pulse())
        rows = prepare_rows(source, frame, arithmetic, 0, source.num_rows, True, Pulse())
        return rows, (self.host_centroids - frame.mean).to(self.device)


def list_sides(inputs: GpuInputs) -> list[GpuSide]:
    """Return what there is on this machine."""
    rows, centroids, device = inputs.rows, inputs.centroids, inputs.device
    once = "one pass"
    sides = [
        GpuSide("assign", GEMM, {once: partial(multiply, rows, centroids)}),
        GpuSide("assign", LLOYD, {once: partial(assign_chunked, rows, centroids)}),
        GpuSide("assign", OURS, {once: partial(_assign_ours, inputs)}),
        GpuSide("iterate", LLOYD, {once: partial(iterate_chunked, rows, centroids, 1)}),
        GpuSide("iterate", OURS, {once: partial(_iterate_ours, inputs)}),
        GpuSide(
            "iterate",
            "faiss' dataflow, emulated",
            {once: partial(iterate_like_faiss, inputs.host_rows, inputs.host_centroids, device)},
        ),
        GpuSide(
            "fit",
            LLOYD,
            {f"{NUM_ITERATIONS} iterations": partial(
                iterate_chunked, rows, centroids, NUM_ITERATIONS)},
        ),
        GpuSide(
            "fit",
            OURS,
            {f"two levels + {count}": partial(_fit_ours, inputs, count)
             for count in OUR_ITERATIONS},
        ),
    ]  # fmt: skip
    if device.type == "cuda":
        compiled = torch.compile(_find_highest)
        work = partial(assign_chunked, rows, centroids, compiled)
        sides.append(GpuSide("assign", COMPILED, {once: work}))
    if find_spec("flash_kmeans") and device.type == "cuda":
        sides += _list_flash(inputs)
    if find_spec("fastkmeans"):
        sides += _list_fast(inputs)
    return sides


def multiply(rows: torch.Tensor, centroids: torch.Tensor) -> None:
    """Multiply all rows with all centroids and drop the products: the device's own rate."""
    products = torch.empty(
        (CHUNK_ROWS, len(centroids)), dtype=rows.dtype, device=rows.device
    )  # (n, K)
    for first in range(0, len(rows), CHUNK_ROWS):
        block = rows[first : first + CHUNK_ROWS]
        torch.mm(block, centroids.T, out=products[: len(block)])


def _find_highest(products: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return (products.float() + bias).argmax(1)


def assign_chunked(
    rows: torch.Tensor,
    centroids: torch.Tensor,
    find_highest: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = _find_highest,
) -> torch.Tensor:
    """Return (N,) nearest centroids by chunked products and a maximum of each row."""
    bias = centroids.float().square().sum(1).mul_(-0.5)
    nearest = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    for first in range(0, len(rows), CHUNK_ROWS):
        block = rows[first : first + CHUNK_ROWS]
        nearest[first : first + len(block)] = find_highest(block @ centroids.T, bias)
    return nearest


def iterate_chunked(
    rows: torch.Tensor, centroids: torch.Tensor, num_iterations: int
) -> torch.Tensor:
    """Return (K, D) centroids after Lloyd's iterations; an empty cluster keeps its own."""
    for _ in range(num_iterations):
        nearest = assign_chunked(rows, centroids)
        sums = torch.zeros(centroids.shape, device=rows.device)
        for first in range(0, len(rows), CHUNK_ROWS):
            mine = slice(first, first + CHUNK_ROWS)
            sums.index_add_(0, nearest[mine], rows[mine].float())
        counts = torch.bincount(nearest, minlength=len(centroids))[:, None]
        means = sums / counts.clamp(min=1)
        centroids = torch.where(counts > 0, means, centroids.float()).to(rows.dtype)
    return centroids


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


def _assign_ours(inputs: GpuInputs) -> torch.Tensor:
    """Assign as an iteration does: rounded products, nothing looked at again."""
    rows, centroids = inputs.our_rows
    return Scorer(centroids, choose_arithmetic(inputs.device, rows.dim)).assign(rows.kept.factor)


def _iterate_ours(inputs: GpuInputs) -> torch.Tensor:
    """Do a first iteration, which adds up all rows; later ones add those that move."""
    rows, centroids = inputs.our_rows
    arithmetic = choose_arithmetic(inputs.device, rows.dim)
    return Lloyd(rows, arithmetic, Ranks(), Pulse(), seed=0).iterate(centroids, 0).centroids


def _fit_ours(inputs: GpuInputs, num_iterations: int) -> torch.Tensor:
    """Fit as the stage does, from rows in host memory, which are uploaded and rounded first."""
    config = Cluster(
        num_clusters=len(inputs.host_centroids),
        num_iterations=num_iterations,
        normalize=False,
        stop_improvement=0,
    )
    engine = TorchEngine(inputs.device)
    fit = engine.fit(ArrayRows(inputs.host_rows.numpy()), config, 0, None, lambda _fit: None)
    return torch.from_numpy(fit.centroids)


def _list_flash(inputs: GpuInputs) -> list[GpuSide]:
    """Return what flash-kmeans does of rows that are on the GPU; it has no CPU kernel."""
    from flash_kmeans import batch_kmeans_Euclid
    from flash_kmeans.assign_euclid_triton import euclid_assign_triton

    rows, centroids = inputs.rows[None], inputs.centroids[None]
    norms_sq = _square_norms(inputs.rows)[None]

    def fit(num_iterations: int) -> torch.Tensor:
        _, found, _ = batch_kmeans_Euclid(
            rows, centroids.shape[1], max_iters=num_iterations, init_centroids=centroids
        )
        moved: torch.Tensor = found[0]
        return moved

    return [
        GpuSide(
            "assign", FLASH, {"one pass": lambda: euclid_assign_triton(rows, centroids, norms_sq)}
        ),
        GpuSide("iterate", FLASH, {"one pass": partial(fit, 1)}),
        GpuSide("fit", FLASH, {f"{NUM_ITERATIONS} iterations": partial(fit, NUM_ITERATIONS)}),
    ]


def _list_fast(inputs: GpuInputs) -> list[GpuSide]:
    """Return what fastkmeans does of rows in host memory; it draws its own start."""
    from fastkmeans import FastKMeans

    def fit(num_iterations: int) -> torch.Tensor:
        kmeans = FastKMeans(
            inputs.host_rows.shape[1],
            len(inputs.host_centroids),
            niter=num_iterations,
            device=inputs.device,
            gpu=inputs.device.type == "cuda",
        )
        kmeans.train(inputs.host_rows.numpy())
        return torch.from_numpy(kmeans.centroids)

    return [
        GpuSide("iterate", "fastkmeans", {"one pass": partial(fit, 1)}),
        GpuSide(
            "fit", "fastkmeans", {f"{NUM_ITERATIONS} iterations": partial(fit, NUM_ITERATIONS)}
        ),
    ]


def _square_norms(rows: torch.Tensor) -> torch.Tensor:
    """Return (N,) squared norms without a float32 copy of all rows."""
    return torch.cat([block.float().square().sum(1) for block in rows.split(CHUNK_ROWS)])
