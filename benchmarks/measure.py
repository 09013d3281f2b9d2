"""Rounds: every side once in each, in rotating order, judged when the clock no longer runs."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.cases import Case, Side, find_case
from benchmarks.data import draw_initial_centroids, open_features, read_chunks
from benchmarks.judge import Verdict, count_farther, judge
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.process import run_side
from benchmarks.settings import BEST
from clusterfit.worker.cores import count_cores

RESULTS: Final = Path(__file__).parent / "results"
OUTCOMES: Final = Path(__file__).parent / ".outcomes"
Record = dict[str, Any]


class Results:
    """One case's records: kept as they come, so that a run that was stopped goes on."""

    def __init__(self, name: str, folder: Path = RESULTS) -> None:
        """Open what is there, or begin."""
        self.path = folder / f"{name}.json"
        self.content: dict[str, Any] = {"case": name, "records": []}
        if self.path.exists():
            self.content = json.loads(self.path.read_text(encoding="utf-8"))

    def begin(self, description: Record) -> None:
        """Say what the records are of; those of another machine, shape or data are dropped."""
        for key in ("machine", "data", "shape"):
            if self.records and self.content.get(key) != description[key]:
                print(f"{self.path.name}: of another {key}; begun anew")
                self.content["records"] = []
        self.content |= description

    @property
    def records(self) -> list[Record]:
        """One for each process."""
        records: list[Record] = self.content["records"]
        return records

    def find(self, **wanted: Any) -> list[Record]:
        """Return the records with these values."""
        return [r for r in self.records if all(r.get(k) == v for k, v in wanted.items())]

    def save(self) -> None:
        """Write all of it."""
        self.path.parent.mkdir(exist_ok=True)
        text = json.dumps(self.content, indent=1, sort_keys=True) + "\n"
        self.path.write_text(text, encoding="utf-8")


def measure(
    case: Case, num_rounds: int, only: frozenset[str] = frozenset(), folder: Path = RESULTS
) -> None:
    """Run what is missing of so many rounds; `only` names sides."""
    results = Results(case.name, folder)
    results.begin(describe(case))
    for number in range(num_rounds):
        turn = number % len(case.sides)
        for side in case.sides[turn:] + case.sides[:turn]:
            for setting in side.settings:
                wanted = {"side": side.name, "setting": setting, "round": number}
                is_due = number < side.rounds.get(setting, num_rounds)
                if is_due and not results.find(**wanted) and (not only or side.name in only):
                    record = wanted | _run(case, side, setting, number, folder)
                    results.records.append(record)
                    results.save()
                    _tell(case, record)


def describe(case: Case) -> Record:
    """Return what a case's results are of."""
    return {
        "machine": describe_machine(),
        "versions": describe_versions(),
        "data": case.data.name,
        "shape": [case.data.num_rows, case.data.dim, case.num_clusters],
    }


def _run(case: Case, side: Side, setting: str, number: int, folder: Path) -> Record:
    blas = find_best_setting(side.library, folder) if setting == BEST else setting
    outcomes = OUTCOMES / case.name / f"{side.name}-{setting}-{number}".replace(" ", "_")
    shutil.rmtree(outcomes, ignore_errors=True)
    outcomes.mkdir(parents=True)
    features = open_features(case.data)
    request = {
        "program": side.program,
        "features": str(features),
        "centroids": str(find_centroids(case, features, number)),
        "seed": number,
        "num_threads": count_cores(),
        "attempts": [{"label": a.label, "options": dict(a.options)} for a in side.attempts],
        "outcomes": str(outcomes),
    }
    finished = run_side(request, blas)
    record: Record = {"blas": blas, "exit_code": finished.exit_code, "attempts": []}
    if finished.reply is None:
        return record | {"error": finished.error}
    return record | {
        "attempts": finished.reply["attempts"],
        "peak_bytes": finished.reply["peak_bytes"],
        "peak_anonymous_bytes": finished.peak_anonymous_bytes,
    }


def find_centroids(case: Case, features: Path, number: int) -> Path:
    """Return the centroids of a round: K drawn rows, or for an assignment their clusters' means.

    The means are one exact iteration away from the rows, and so as close to each other as
    centroids are when they are assigned to.
    """
    number = 0 if case.task == "assign" else number
    path = OUTCOMES / "starts" / f"{case.task}-{case.data.name}-{case.num_clusters}-{number}.npy"
    if not path.exists():
        centroids = draw_initial_centroids(features, case.num_clusters, number)
        if case.task == "assign":
            centroids = _average(features, centroids)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, centroids)
    return path


def _average(features: Path, centroids: np.ndarray) -> np.ndarray:
    assignments = judge(read_chunks(features), centroids).assignments
    sums, start = np.zeros(centroids.shape), 0
    for chunk in read_chunks(features):
        order = np.argsort(assignments[start : start + len(chunk)], kind="stable")
        present, firsts = np.unique(
            assignments[start : start + len(chunk)][order], return_index=True
        )
        sums[present] += np.add.reduceat(chunk[order].astype(np.float64), firsts)
        start += len(chunk)
    counts = np.bincount(assignments, minlength=len(centroids))[:, None]
    return np.where(counts > 0, sums / np.maximum(counts, 1), centroids).astype(np.float32)


def find_best_setting(library: str, folder: Path = RESULTS) -> str:
    """Return the BLAS setting with which the case `blas` saw a library fastest.

    Raises:
        SystemExit: when that case has not been measured.
    """
    times: dict[str, float] = {}
    for record in Results("blas", folder).records:
        [side] = [s for s in find_case("blas").sides if s.name == record["side"]]
        if side.library == library and record["attempts"]:
            # What else runs only ever makes a call longer: the shortest tells a setting's worth.
            shortest = min(a["seconds"] for a in record["attempts"])
            setting = record["setting"]
            times[setting] = min(shortest, times.get(setting, shortest))
    if not times:
        sys.exit(f"{library}: its best BLAS setting is not known yet; measure the case blas first")
    return min(times, key=times.__getitem__)


def judge_outcomes(case: Case, folder: Path = RESULTS, say: Callable[[str], None] = print) -> None:
    """Add what float64 says to every attempt that left an outcome, and delete the outcome."""
    results = Results(case.name, folder)
    features = open_features(case.data)
    best: Verdict | None = None
    centroids = np.load(find_centroids(case, features, 0))
    for record in results.records:
        for attempt in record["attempts"]:
            if not attempt.get("outcome"):
                continue
            path = Path(attempt.pop("outcome"))
            outcome = np.load(path)
            if case.task == "fit":
                attempt["objective"] = judge(read_chunks(features), outcome).objective
            elif case.task == "assign":
                best = best or judge(read_chunks(features), centroids)
                count, worst = count_farther(read_chunks(features), centroids, outcome, best)
                attempt |= {"farther_rows": count, "worst_excess": worst}
            path.unlink()
            results.save()
            said = {k: v for k, v in attempt.items() if k in {"objective", "farther_rows"}}
            say(f"{case.name} {record['side']} {attempt['label']}: {said}")


def _tell(case: Case, record: Record) -> None:
    seconds = ", ".join(f"{a['label']} {a['seconds']:.2f} s" for a in record["attempts"])
    print(
        f"{time.strftime('%H:%M:%S')} {case.name} round {record['round']} {record['side']} "
        f"({record['setting']}: {record['blas']}): {seconds or record['error']}",
        flush=True,
    )
