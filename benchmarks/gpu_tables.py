"""The tables of the case `gpu`: one for each task, so that like stands beside like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.gpu_sides import GEMM, LLOYD, NUM_ITERATIONS, OURS
from benchmarks.statistics import Spread, divide_by_round, find_time_to, summarize
from benchmarks.tables import Content, show_spread, table

Rounds = Mapping[int, Sequence[Mapping[str, Any]]]
"""Round -> a side's attempts."""


def build_gpu(content: Content) -> str:
    """Return the tables of assignments, iterations and fits."""
    num_rows, dim, num_clusters = content["shape"]
    flops = 2 * num_rows * dim * num_clusters
    return "\n\n".join(
        [
            f"GPU: {content['machine']['gpu']}. An assignment:",
            _build_assign(_group(content, "assign"), flops),
            "An iteration, which is an assignment and new centroids:",
            _build_iterate(_group(content, "iterate")),
            f"A fit, to the objective that {NUM_ITERATIONS} iterations of Lloyd's algorithm "
            f"({LLOYD}) end at:",
            _build_fit(_group(content, "fit")),
        ]
    )


def _group(content: Content, task: str) -> dict[str, Rounds]:
    grouped: dict[str, dict[int, Sequence[Mapping[str, Any]]]] = {}
    for record in content["records"]:
        if record["task"] == task:
            grouped.setdefault(record["side"], {})[record["round"]] = record["attempts"]
    return dict(grouped)


def _build_assign(sides: Mapping[str, Rounds], flops: int) -> str:
    times = {side: _time(rounds) for side, rounds in sides.items()}
    lines = [
        [
            side,
            show_spread(summarize(mine.values()), 3),
            show_spread(summarize(flops / seconds / 1e12 for seconds in mine.values()), 0),
            show_spread(divide_by_round(times[GEMM], mine), 2),
            show_spread(divide_by_round(mine, times[OURS]), 2, "x"),
            _show_peak(sides[side]),
        ]
        for side, mine in times.items()
    ]
    head = ["side", "seconds", "TFLOP/s", "of the GEMM's rate", f"of {OURS}'s time", "peak GiB"]
    return table(head, lines)


def _build_iterate(sides: Mapping[str, Rounds]) -> str:
    times = {side: _time(rounds) for side, rounds in sides.items()}
    lines = [
        [
            side,
            show_spread(summarize(mine.values()), 3),
            show_spread(divide_by_round(mine, times[OURS]), 2, "x"),
            _show_peak(sides[side]),
        ]
        for side, mine in times.items()
    ]
    return table(["side", "seconds", f"of {OURS}'s time", "peak GiB"], lines)


def _build_fit(sides: Mapping[str, Rounds]) -> str:
    targets = {number: attempts[0]["objective"] for number, attempts in sides[LLOYD].items()}
    reached = {side: _time_to(rounds, targets) for side, rounds in sides.items()}
    lines = []
    for side, times in reached.items():
        excess = min(
            attempt["objective"] / targets[number] - 1
            for number, attempts in sides[side].items()
            if number in targets
            for attempt in attempts
        )
        ratio: Spread | None = None
        if times.keys() & reached[OURS].keys():
            ratio = divide_by_round(times, reached[OURS])
        lines.append(
            [
                side,
                show_spread(summarize(times.values()), 2) if times else "not reached",
                show_spread(ratio, 2, "x"),
                f"{100 * excess:+.2f} %",
                _show_peak(sides[side]),
            ]
        )
    head = ["side", "seconds to the objective", f"of {OURS}'s time", "best objective - that",
            "peak GiB"]  # fmt: skip
    return table(head, lines)


def _time(rounds: Rounds) -> dict[int, float]:
    return {number: attempts[0]["seconds"] for number, attempts in rounds.items()}


def _time_to(rounds: Rounds, targets: Mapping[int, float]) -> dict[int, float]:
    """Return by round the seconds of the fastest attempt that reached the target."""
    times = {}
    for number in rounds.keys() & targets.keys():
        points = [(attempt["seconds"], attempt["objective"]) for attempt in rounds[number]]
        seconds = find_time_to(targets[number], points)
        if seconds is not None:
            times[number] = seconds
    return times


def _show_peak(rounds: Rounds) -> str:
    peaks = [a["peak_bytes"] for attempts in rounds.values() for a in attempts if "peak_bytes" in a]
    return f"{max(peaks) / 2**30:.1f}" if peaks else "-"
