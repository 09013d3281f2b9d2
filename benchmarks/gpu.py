"""The same on a GPU, where there is one: assignments, whole iterations and fits, beside GPU peers.

Like is compared with like: an assignment with assignments, an iteration (assignment and new
centroids) with iterations, a fit with fits, whose objectives are computed again in float64. All
sides are in one process, which holds the rows on the device as bfloat16 and in host memory as
float32; each side is given those that its interface takes. Rounds are interleaved, and the first
use of a side is not counted.

N: rows, D: dimensions, K: num_clusters.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import numpy as np
import torch

from benchmarks.cases import Case
from benchmarks.data import Data, open_features, read_features
from benchmarks.gpu_sides import CHUNK_ROWS, GpuInputs, Work, list_sides
from benchmarks.measure import RESULTS, Record, Results, describe, find_centroids

CASE: Final = Case("gpu", "fit", Data("relu", 1_281_167, 2048), 16_000, ())


def find_obstacle() -> str:
    """Return why nothing is measured, or nothing."""
    return "" if torch.cuda.is_available() else "needs a GPU: torch sees none"


def measure_gpu(num_rounds: int, folder: Path = RESULTS) -> None:
    """Run what is missing of so many rounds on this machine's first GPU."""
    if obstacle := find_obstacle():
        print(f"{CASE.name}: skipped: {obstacle}")
        return
    measure_on(torch.device("cuda"), CASE, num_rounds, folder)


def measure_on(device: torch.device, case: Case, num_rounds: int, folder: Path) -> None:
    """Run what is missing of so many rounds on a device."""
    results = Results(case.name, folder)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    description = describe(case)
    description["machine"] = {**description["machine"], "gpu": gpu}
    results.begin(description)
    features = open_features(case.data)
    host_rows = torch.from_numpy(read_features(features))
    start = torch.from_numpy(np.load(find_centroids(case, features, 0)))
    inputs = GpuInputs(host_rows, start, device)
    judged_rows = host_rows.to(device)
    sides = list_sides(inputs)
    is_used: set[tuple[str, str]] = set()
    for number in range(num_rounds):
        turn = number % len(sides)
        for side in sides[turn:] + sides[:turn]:
            wanted = {"task": side.task, "side": side.name, "round": number}
            if results.find(**wanted):
                continue
            attempts = []
            for label, work in side.attempts.items():
                if (side.task, side.name) not in is_used:
                    is_used.add((side.task, side.name))
                    work()
                attempts.append({"label": label} | _time(work, device, side.task, judged_rows))
            results.records.append(wanted | {"attempts": attempts})
            results.save()
            print(f"{case.name} {wanted}: {attempts}", flush=True)


def _time(work: Work, device: torch.device, task: str, rows: torch.Tensor) -> Record:
    """Return seconds, peak memory on the device, and the objective of a fit."""
    _wait(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    result = work()
    _wait(device)
    record: Record = {"seconds": time.perf_counter() - start}
    if device.type == "cuda":
        record["peak_bytes"] = torch.cuda.max_memory_allocated(device)
    if task == "fit":
        assert result is not None, "a fit ends with centroids"
        record["objective"] = compute_objective(rows, result)
    return record


def compute_objective(rows: torch.Tensor, centroids: torch.Tensor) -> float:
    """Return the sum of squared distances to the nearest centroids, in float64.

    Args:
        rows: (N, D) float32, as they were before any side rounded them, where products are made:
            on a CPU they would take half an hour.
        centroids: (K, D), wherever they are.
    """
    wide = centroids.to(rows.device, torch.float64)
    halves = wide.square().sum(1) / 2
    total = 0.0
    step = CHUNK_ROWS // 4
    for first in range(0, len(rows), step):
        block = rows[first : first + step].double()
        nearest = (block @ wide.T - halves).argmax(1)
        total += float((block - wide[nearest]).square().sum())
    return total


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
