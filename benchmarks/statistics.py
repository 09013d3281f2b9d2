"""The harness's arithmetic: medians, spread, pairs of one round, time to an objective."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

REACHED_WITHIN: Final = 1e-5
"""An objective counts as reached from this fraction above it: sides that do the same arithmetic in
another order differ by less, and an iteration late in a fit gains more."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A median of several rounds, and how far the others lie from it."""

    median: float
    low: float
    high: float
    count: int


def summarize(values: Iterable[float]) -> Spread:
    """Return the median, smallest and largest of at least one value."""
    ordered = sorted(values)
    return Spread(statistics.median(ordered), ordered[0], ordered[-1], len(ordered))


def divide_by_round(numerators: Mapping[int, float], denominators: Mapping[int, float]) -> Spread:
    """Return the ratios of what was measured in the same round, summarized.

    A machine's pace drifts from minute to minute. Two sides of one round met the same pace, so
    their ratio is steadier than the ratio of medians.
    """
    rounds = numerators.keys() & denominators.keys()
    return summarize(numerators[number] / denominators[number] for number in rounds)


def is_reached(objective: float, target: float) -> bool:
    """Tell whether a fit ended at the target or below it."""
    return objective <= target * (1 + REACHED_WITHIN)


def find_time_to(target: float, attempts: Iterable[tuple[float, float]]) -> float | None:
    """Return the seconds of the fastest (seconds, objective) that reached the target."""
    times = [seconds for seconds, objective in attempts if is_reached(objective, target)]
    return min(times, default=None)


def trace_frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the (seconds, objective) that no other point beats in both, by rising seconds."""
    frontier: list[tuple[float, float]] = []
    for point in sorted(points):
        if not frontier or point[1] < frontier[-1][1]:
            frontier.append(point)
    return frontier
