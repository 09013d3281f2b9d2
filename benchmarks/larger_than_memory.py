"""The case `memory`: features four times as large as the memory that the process may have."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks import memory
from benchmarks.cases import Attempt, Case, Side
from benchmarks.data import Data, open_features
from benchmarks.measure import OUTCOMES, RESULTS, Results, describe, find_centroids
from benchmarks.process import Finished, run_side
from benchmarks.settings import BEST, DEFAULT
from clusterfit.worker.cores import count_cores

LIMIT_FRACTION: Final = 4
"""Features are so many times the limit."""

_FIT: Final = (Attempt("fit", {"iterations": 2}),)
CASE: Final = Case(
    "memory",
    "fit",
    Data("relu", 393216, 2048),
    2048,
    (
        Side("clusterfit", "clusterfit_fit", _FIT),
        Side("faiss.Kmeans", "faiss_kmeans", (Attempt("fit", {"niter": 2}),), (BEST,), "faiss"),
    ),
)


def measure_memory(num_rounds: int, folder: Path = RESULTS, case: Case = CASE) -> None:
    """Run what is missing of so many rounds, each side within the limit and without one."""
    if obstacle := memory.find_obstacle():
        print(f"{case.name}: skipped: {obstacle}")
        return
    results = Results(case.name, folder)
    limit = case.data.num_rows * case.data.dim * 4 // LIMIT_FRACTION
    results.begin(describe(case) | {"limit_bytes": limit})
    for number in range(num_rounds):
        for side in case.sides:
            for is_limited in (True, False):
                wanted = {"side": side.name, "limited": is_limited, "round": number}
                if side.name != "clusterfit" and not is_limited:
                    continue  # what it needs is known: more than there is room for
                if not results.find(**wanted):
                    record = wanted | _run(case, side, number, limit if is_limited else 0)
                    results.records.append(record)
                    results.save()
                    print(f"{case.name} {wanted}: {record}", flush=True)


def _run(case: Case, side: Side, number: int, limit: int) -> dict[str, Any]:
    features = open_features(case.data)
    outcomes = OUTCOMES / case.name / f"{side.program}-{number}-{limit}"
    outcomes.mkdir(parents=True, exist_ok=True)
    request = {
        "program": side.program,
        "features": str(features),
        "centroids": str(find_centroids(case, features, number)),
        "seed": number,
        "num_threads": count_cores(),
        "attempts": [{"label": a.label, "options": dict(a.options)} for a in side.attempts],
        "outcomes": str(outcomes),
    }
    if not limit:
        return _tell(run_side(request, DEFAULT))
    memory.drop_cached_pages(features)
    with memory.limit_memory(limit) as group:
        finished = run_side(request, DEFAULT, group.prefix)
        return _tell(finished) | {"group_peak_bytes": group.read_peak_bytes()}


def _tell(finished: Finished) -> dict[str, Any]:
    record: dict[str, Any] = {
        "exit_code": finished.exit_code,
        "peak_anonymous_bytes": finished.peak_anonymous_bytes,
        "attempts": [],
    }
    if finished.reply is None:
        return record | {"error": finished.error}
    return record | {
        "attempts": finished.reply["attempts"], "peak_bytes": finished.reply["peak_bytes"],
    }  # fmt: skip
