"""From records to what a table says.

Attempts before a label's first warm repeat are warm-ups or first uses; only warm ones are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.statistics import (
    Spread,
    divide_by_round,
    find_time_to,
    summarize,
)

Record = Mapping[str, Any]
TARGET_SIDE: Final = "faiss.Kmeans"
TARGET_LABEL: Final = "25 iterations"


@dataclass(frozen=True, slots=True)
class Row:
    """One side in one setting."""

    side: str
    setting: str
    blas: str
    records: tuple[Record, ...]

    @property
    def name(self) -> str:
        """Side and setting, as tables and legends call them."""
        return self.side

    def warm(self, record: Record) -> Iterator[Mapping[str, Any]]:
        """Yield a record's attempts but the first of its process, which is a first use."""
        yield from record["attempts"][1:]

    @property
    def peak_bytes(self) -> float:
        """Median of the processes' largest resident sets."""
        return summarize(record["peak_bytes"] for record in self.records).median

    @property
    def foreign_cores(self) -> float:
        """Median over the processes of the cores that others kept busy in their longest attempt."""
        longest = [max(r["attempts"], key=lambda a: float(a["seconds"])) for r in self.records]
        return summarize(a.get("foreign_cores", 0.0) for a in longest).median


def list_rows(records: Sequence[Record]) -> list[Row]:
    """Return sides and settings in the order in which they come, with what finished."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record["attempts"]:
            found.setdefault((record["side"], record["setting"]), []).append(record)
    return [
        Row(side, setting, kept[0]["blas"], tuple(sorted(kept, key=lambda r: int(r["round"]))))
        for (side, setting), kept in found.items()
    ]


def find_row(rows: Sequence[Row], side: str, setting: str) -> Row:
    """Return the row of a side."""
    [row] = [row for row in rows if (row.side, row.setting) == (side, setting)]
    return row


def time_each_round(row: Row, label: str = "") -> dict[int, float]:
    """Return each round's median warm seconds, of one label or of all attempts."""
    return {
        record["round"]: summarize(
            a["seconds"] for a in row.warm(record) if not label or a["label"] == label
        ).median
        for record in row.records
    }


def find_targets(rows: Sequence[Row]) -> dict[int, float]:
    """Return each round's target: faiss.Kmeans' objective after 25 iterations, best setting."""
    row = find_row(rows, TARGET_SIDE, "best")
    return {
        record["round"]: attempt["objective"]
        for record in row.records
        for attempt in record["attempts"]
        if attempt["label"] == TARGET_LABEL
    }


def time_to_targets(row: Row, targets: Mapping[int, float]) -> dict[int, float]:
    """Return the seconds in which a side reached the target, for the rounds in which it did."""
    times = {}
    for record in row.records:
        attempts = [(a["seconds"], a["objective"]) for a in row.warm(record)]
        seconds = find_time_to(targets[record["round"]], attempts)
        if seconds is not None:
            times[record["round"]] = seconds
    return times


def find_least_excess(row: Row, targets: Mapping[int, float]) -> float:
    """Return how far above the target, as a fraction, the best of a side's attempts ended."""
    return summarize(
        min(a["objective"] for a in row.warm(record)) / targets[record["round"]] - 1
        for record in row.records
    ).median


def compare_to_target(row: Row, ours: Row, targets: Mapping[int, float]) -> Spread | None:
    """Return how many times longer a side took to the target than ours, where both reached it."""
    theirs, own = time_to_targets(row, targets), time_to_targets(ours, targets)
    if not theirs.keys() & own.keys():
        return None
    return divide_by_round(theirs, own)


def find_first_use_seconds(row: Row) -> Spread | None:
    """Return what a process's first attempt took beyond the same attempt again, where repeated."""
    extra = []
    for record in row.records:
        first, *others = record["attempts"]
        again = [a["seconds"] for a in others if a["label"] == first["label"]]
        if again:
            extra.append(first["seconds"] - summarize(again).median)
    return summarize(extra) if extra else None


def trace_points(row: Row, targets: Mapping[int, float]) -> list[tuple[float, float]]:
    """Return each label's median (seconds, objective / target) over the rounds."""
    labels: dict[str, list[tuple[float, float]]] = {}
    for record in row.records:
        for attempt in row.warm(record):
            point = attempt["seconds"], attempt["objective"] / targets[record["round"]]
            labels.setdefault(attempt["label"], []).append(point)
    return [
        (summarize(p[0] for p in points).median, summarize(p[1] for p in points).median)
        for points in labels.values()
    ]


def trace_iterations(row: Row, targets: Mapping[int, float]) -> list[tuple[float, float]]:
    """Return (seconds, objective / target) after each iteration, as faiss itself tells them.

    faiss tells the objective before each update, so that after an iteration is the next one's; the
    last is the judge's. Of the first round, because the next one started elsewhere.
    """
    [attempt] = [a for a in row.records[0]["attempts"] if a["label"] == TARGET_LABEL]
    target = targets[row.records[0]["round"]]
    after = [objective for _, objective in attempt["trace"][1:]] + [attempt["objective"]]
    seconds = [second for second, _ in attempt["trace"]]
    return [(s, objective / target) for s, objective in zip(seconds, after, strict=True)]
