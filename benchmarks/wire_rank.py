"""One rank: k-means among its peers, and what the kernel counted on loopback in each iteration.

N: rows, D: dimensions, K: num_clusters.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist

from clusterfit.artifacts.parts import FeatureTable
from clusterfit.config.sections.clustering import Cluster
from clusterfit.worker.kmeans.engine import Fit
from clusterfit.worker.kmeans.ranks import Ranks
from clusterfit.worker.kmeans.rows import Rows

_PORT: Final = 29571
Tick = Callable[[], None]


def main() -> None:
    """Be the rank that the environment names."""
    request = json.loads(os.environ["BENCHMARK_REQUEST"])
    rank, world_size = int(os.environ["RANK"]), request["world_size"]
    torch.set_num_threads(max(1, request["num_threads"] // world_size))
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{_PORT}", rank=rank, world_size=world_size
    )
    centroids = np.load(request["centroids"])
    ticks: list[tuple[float, int]] = []

    def tick() -> None:
        dist.barrier()  # all have done this iteration; its own few bytes are counted with it
        ticks.append((time.perf_counter(), read_sent_bytes()))

    program = {"clusterfit": _run_ours, "demo": _run_demo, "gather": _run_gather}[
        request["program"]
    ]
    result = program(request, Ranks(rank, world_size), centroids, tick)
    if rank == 0:
        np.save(Path(request["outcomes"]) / "0.npy", result)
        # The first iteration also meets its peers and prepares its rows.
        pairs = list(pairwise(ticks))
        answer = {
            "seconds": [after[0] - before[0] for before, after in pairs],
            "sent_bytes": [after[1] - before[1] for before, after in pairs],
            "outcome": str(Path(request["outcomes"]) / "0.npy"),
        }
        print(json.dumps(answer), flush=True)
    dist.barrier()
    dist.destroy_process_group()


def read_sent_bytes() -> int:
    """Return the bytes that loopback of this process's network namespace has sent."""
    for line in Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[8])
    raise LookupError("/proc/self/net/dev: got no line lo, want the loopback interface")


def _run_ours(
    request: dict[str, Any], ranks: Ranks, centroids: np.ndarray, tick: Tick
) -> np.ndarray:
    from clusterfit.worker.kmeans.torch_engine import TorchEngine

    config = Cluster(
        num_clusters=len(centroids), num_iterations=request["iterations"], normalize=False
    )
    rows = Rows(FeatureTable(Path(request["features"])), config, None)
    engine = TorchEngine(ranks=ranks)
    return engine.fit(rows, config, 0, Fit(centroids, ()), lambda _fit: tick()).centroids


def _run_demo(
    request: dict[str, Any], ranks: Ranks, centroids: np.ndarray, tick: Tick
) -> np.ndarray:
    """The dataflow of faiss' demo_distributed_kmeans_torch.py, written anew for gloo and CPUs.

    Rank 0 broadcasts the centroids; each rank searches its rows; sums are reduced to rank 0, and so
    are counts by way of every row's assignment and distance, which are gathered there.
    """
    import faiss

    rows = _read_share(request, ranks)
    faiss.omp_set_num_threads(torch.get_num_threads())
    current = torch.from_numpy(centroids.copy())
    num_clusters = len(current)
    for _ in range(request["iterations"]):
        dist.broadcast(current, 0)
        distances, nearest = faiss.knn(rows.numpy(), current.numpy(), 1)
        found, far = torch.from_numpy(nearest[:, 0]), torch.from_numpy(distances[:, 0].copy())
        sums = torch.zeros_like(current).index_add_(0, found, rows)
        dist.reduce(sums, 0)
        gathered = _gather(found, ranks), _gather(far, ranks)
        if ranks.rank == 0:
            counts = torch.bincount(torch.cat(gathered[0]), minlength=num_clusters)
            filled = counts > 0
            current[filled] = sums[filled] / counts[filled, None]
        tick()
    return current.numpy()


def _run_gather(
    request: dict[str, Any], ranks: Ranks, centroids: np.ndarray, tick: Tick
) -> np.ndarray:
    """Every row goes to rank 0, which does faiss' iterations; counted as one iteration."""
    import faiss

    tick()
    rows = _gather(_read_share(request, ranks), ranks)
    if ranks.rank == 0:
        kmeans = faiss.Kmeans(
            centroids.shape[1], len(centroids), niter=1, min_points_per_centroid=1,
            max_points_per_centroid=2**31 // len(centroids),
        )  # fmt: skip
        kmeans.train(torch.cat(rows).numpy(), init_centroids=centroids)
        centroids = np.asarray(kmeans.centroids)
    tick()
    return centroids


def _read_share(request: dict[str, Any], ranks: Ranks) -> torch.Tensor:
    table = FeatureTable(Path(request["features"]))
    return torch.from_numpy(table.read_rows(*ranks.share(table.num_rows)))


def _gather(tensor: torch.Tensor, ranks: Ranks) -> list[torch.Tensor]:
    """Return every rank's tensor, all of one size, on rank 0; nothing elsewhere."""
    if ranks.rank:
        dist.gather(tensor, None, dst=0)
        return []
    places = [torch.empty_like(tensor) for _ in range(ranks.world_size)]
    dist.gather(tensor, places, dst=0)
    return places


if __name__ == "__main__":
    main()
