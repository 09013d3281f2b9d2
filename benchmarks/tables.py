"""The tables of docs/benchmarks.md, one function for each kind of case."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from benchmarks.analysis import (
    Row,
    compare_to_target,
    find_first_use_seconds,
    find_least_excess,
    find_row,
    find_targets,
    list_rows,
    time_each_round,
    time_to_targets,
)
from benchmarks.cases import OURS
from benchmarks.settings import BEST, DEFAULT
from benchmarks.statistics import Spread, divide_by_round, summarize

FIT_CASES: Final = ("fit-2048", "fit-512", "fit-digits", "fit-gaussian")

Content = Mapping[str, Any]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose first column is text and whose others are numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    lines = [head, rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def show_spread(spread: Spread | None, digits: int = 2, unit: str = "") -> str:
    """Return median and range, or a dash."""
    if spread is None:
        return "-"
    median = f"{spread.median:.{digits}f}{unit}"
    if spread.count == 1:
        return f"{median} (once)"
    return f"{median} ({spread.low:.{digits}f}-{spread.high:.{digits}f})"


def show_row(row: Row) -> str:
    """Return a side's name with its BLAS setting, where that is a choice."""
    if row.setting == DEFAULT and row.blas == DEFAULT:
        return row.side
    return f"{row.side} ({row.blas})"


def _name_setting(rows: Sequence[Row], row: Row) -> str:
    if all(other.setting == DEFAULT for other in rows if other.side == row.side):
        return row.side
    return f"{row.side}, {'best: ' + row.blas if row.setting == BEST else 'default'}"


def _build_blas(content: Content) -> str:
    rows = list_rows(content["records"])
    num_rows, dim, num_clusters = content["shape"]
    sides = list(dict.fromkeys(row.side for row in rows))
    settings = list(dict.fromkeys(row.setting for row in rows))
    lines = []
    for side in sides:
        rates = []
        for setting in settings:
            times = time_each_round(find_row(rows, side, setting)).values()
            flops = 2 * num_rows * dim * num_clusters
            rates.append(show_spread(summarize(flops / t / 1e9 for t in times), 0))
        lines.append([side, *rates])
    return table(["GFLOP/s", *settings], lines)


def _build_assign(content: Content) -> str:
    rows = list_rows(content["records"])
    num_rows, dim, num_clusters = content["shape"]
    flops = 2 * num_rows * dim * num_clusters
    ours = time_each_round(find_row(rows, OURS, DEFAULT))
    gemms = {row.side: _time_best_blocks(row) for row in rows if row.side.endswith(" GEMM")}
    gemm = min(gemms.values(), key=_find_median)
    lines = []
    for row in rows:
        times = gemms.get(row.side) or time_each_round(row)
        wrong = [
            a["farther_rows"] for r in row.records for a in r["attempts"] if "farther_rows" in a
        ]
        lines.append(
            [
                _name_setting(rows, row),
                show_spread(summarize(times.values())),
                show_spread(summarize(flops / t / 1e9 for t in times.values()), 0),
                show_spread(divide_by_round(times, ours), 2, "x"),
                show_spread(divide_by_round(gemm, times), 2),
                f"{max(wrong)}" if wrong else "-",
                f"{row.peak_bytes / 2**20:,.0f}",
                f"{row.foreign_cores:.1f}",
            ]
        )
    head = ["side", "seconds", "GFLOP/s", f"of {OURS}'s time", "of the faster GEMM's rate",
            "rows not at their nearest", "peak MiB", "other load"]  # fmt: skip
    return table(head, lines)


def _time_best_blocks(row: Row) -> Mapping[int, float]:
    labels = {a["label"] for r in row.records for a in r["attempts"]} - {"warm-up"}
    return min((time_each_round(row, label) for label in sorted(labels)), key=_find_median)


def _find_median(times: Mapping[int, float]) -> float:
    return summarize(times.values()).median


def _build_update(content: Content) -> str:
    rows = list_rows(content["records"])
    ours = time_each_round(find_row(rows, OURS, DEFAULT))
    lines = [
        [
            row.side,
            show_spread(summarize(1e3 * t for t in time_each_round(row).values()), 1),
            show_spread(divide_by_round(time_each_round(row), ours), 1, "x"),
            f"{row.foreign_cores:.1f}",
        ]
        for row in rows
    ]
    return table(["side", "milliseconds", f"of {OURS}'s time", "other load"], lines)


def _build_fit(content: Content) -> str:
    rows = list_rows(content["records"])
    targets = find_targets(rows)
    ours = find_row(rows, OURS, DEFAULT)
    lines = []
    for row in rows:
        times = time_to_targets(row, targets)
        extra = find_first_use_seconds(row)
        first = None
        if extra and times:
            first = summarize(times[number] + extra.median for number in times)
        lines.append(
            [
                _name_setting(rows, row),
                show_spread(summarize(times.values()), 2) if times else "not reached",
                show_spread(first),
                show_spread(compare_to_target(row, ours, targets), 2, "x"),
                f"{100 * find_least_excess(row, targets):+.2f} %",
                f"{row.peak_bytes / 2**20:,.0f}",
                f"{row.foreign_cores:.1f}",
            ]
        )
    head = ["side", "seconds to the target", "with the first use", f"of {OURS}'s time",
            "best objective - target", "peak MiB", "other load"]  # fmt: skip
    name = content["case"]
    plot = f"![Time to objective, {name}](images/benchmarks-{name}.svg)"
    return "\n\n".join([table(head, lines), plot])


def _build_distributed(content: Content) -> str:
    _, dim, num_clusters = content["shape"]
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for record in content["records"]:
        if "seconds" in record:
            groups.setdefault((record["side"], record["world_size"]), []).append(record)
    lines = []
    for (side, world_size), records in groups.items():
        sent = summarize(summarize(r["sent_bytes"]).median for r in records)
        lines.append(
            [
                side,
                str(world_size),
                f"{sent.median / 2**20:,.2f}",
                f"{sent.median / (4 * dim * num_clusters):.2f}",
            ]
        )
    head = ["side", "ranks", "MiB sent, all ranks", "the same in K D float32"]
    return table(head, lines)


def _build_memory(content: Content) -> str:
    lines = []
    groups: dict[tuple[str, bool], list[Mapping[str, Any]]] = {}
    for record in content["records"]:
        groups.setdefault((record["side"], record["limited"]), []).append(record)
    for (side, is_limited), records in groups.items():
        times = [r["attempts"][0]["seconds"] for r in records if r["attempts"]]
        anonymous = summarize(r["peak_anonymous_bytes"] for r in records)
        lines.append(
            [
                f"{side}, {'limited' if is_limited else 'no limit'}",
                show_spread(summarize(times), 1) if times else "-",
                f"{anonymous.median / 2**20:,.0f}",
                "finished" if times else f"ended with {records[0]['exit_code']}",
            ]
        )
    text = table(["side", "seconds", "peak MiB without files", "end"], lines)
    return f"Limit: {content['limit_bytes'] / 2**20:,.0f} MiB.\n\n{text}"


SECTIONS: Final[Mapping[str, Callable[[Content], str]]] = {
    "blas": _build_blas,
    "assign": _build_assign,
    "update": _build_update,
    **dict.fromkeys(FIT_CASES, _build_fit),
    "distributed": _build_distributed,
    "memory": _build_memory,
}
"""Case -> what makes its table of its results."""
