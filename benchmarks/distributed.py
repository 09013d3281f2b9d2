"""The case `distributed`: what ranks send each other in an iteration, and how long one takes."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benchmarks.cases import Case
from benchmarks.data import Data, open_features
from benchmarks.measure import OUTCOMES, RESULTS, Results, describe, find_centroids
from benchmarks.process import run_side
from benchmarks.settings import DEFAULT
from benchmarks.wire import NAMESPACE
from clusterfit.worker.cores import count_cores

CASE: Final = Case("distributed", "fit", Data("relu", 65536, 512), 1024, ())
PROGRAMS: Final = {
    "clusterfit": "clusterfit",
    "faiss' demo loop, re-implemented": "demo",
    "all rows to rank 0": "gather",
}
WORLD_SIZES: Final = (1, 2, 4)
_ITERATIONS: Final = 6


def find_obstacle() -> str:
    """Return why nothing is measured, or nothing."""
    if os.geteuid() or not shutil.which("unshare"):
        return "needs root and unshare, for a network of its own"
    return ""


def measure_distributed(num_rounds: int, folder: Path = RESULTS, case: Case = CASE) -> None:
    """Run what is missing of so many rounds."""
    if obstacle := find_obstacle():
        print(f"{case.name}: skipped: {obstacle}")
        return
    results = Results(case.name, folder)
    results.begin(describe(case))
    for number in range(num_rounds):
        for side, program in PROGRAMS.items():
            for world_size in WORLD_SIZES:
                wanted = {"side": side, "world_size": world_size, "round": number}
                if not results.find(**wanted):
                    record = wanted | _run(case, program, world_size, number)
                    results.records.append(record)
                    results.save()
                    print(f"{case.name} {wanted}: {record.get('seconds', record.get('error'))}")


def _run(case: Case, program: str, world_size: int, number: int) -> dict[str, Any]:
    features = open_features(case.data)
    outcomes = OUTCOMES / case.name / f"{program}-{world_size}-{number}"
    outcomes.mkdir(parents=True, exist_ok=True)
    request = {
        "program": program,
        "world_size": world_size,
        "features": str(features),
        "centroids": str(find_centroids(replace(case, task="fit"), features, number)),
        "iterations": _ITERATIONS,
        "num_threads": count_cores(),
        "outcomes": str(outcomes),
    }
    finished = run_side(request, DEFAULT, NAMESPACE, "benchmarks.wire")
    if finished.reply is None:
        return {"error": finished.error, "attempts": []}
    reply = finished.reply
    attempt = {"label": f"{_ITERATIONS} iterations", "outcome": reply.pop("outcome")}
    return reply | {"attempts": [attempt]}
