"""docs/benchmarks.md and its plots, from the committed results: the same bytes each time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import pages
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
    trace_points,
)
from benchmarks.cases import OURS
from benchmarks.measure import RESULTS
from benchmarks.plots import draw_time_to_objective
from benchmarks.settings import BEST, DEFAULT
from benchmarks.statistics import Spread, divide_by_round, summarize

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "benchmarks.md"
IMAGES: Final = ROOT / "docs" / "images"
FIT_CASES: Final = ("fit-2048", "fit-512", "fit-digits", "fit-gaussian")

Content = Mapping[str, Any]


def render(results: Path = RESULTS) -> dict[Path, str]:
    """Return what each file of the report is to hold."""
    contents = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in results.glob("*.json")}
    files = {}
    sections = [pages.INTRODUCTION, _describe_machines(contents)]
    sections += [_section(contents, name, _SECTIONS[name]) for name in _SECTIONS]
    for name in FIT_CASES:
        if name in contents:
            path = IMAGES / f"benchmarks-{name}.svg"
            files[path] = _plot_fit(contents[name])
    files[PAGE] = "\n\n".join(section.strip() for section in sections if section) + "\n"
    return files


def _section(
    contents: Mapping[str, Content], name: str, build: Callable[[Content], str]
) -> str:
    head = pages.HEADS[name]
    command = f"    make bench CASES={name}"
    body = build(contents[name]) if name in contents else "Not measured yet."
    return "\n\n".join(part for part in (head.strip(), command, body) if part)


def _describe_machines(contents: Mapping[str, Content]) -> str:
    lines = []
    seen: dict[str, list[str]] = {}
    for name, content in sorted(contents.items()):
        if "machine" in content:
            machine, versions = content["machine"], content["versions"]
            text = (
                f"{machine['processor']}; {machine['cores']} cores"
                f"{' of a virtual machine' if machine['virtual'] else ''}, "
                f"{machine['memory_gib']:g} GiB; {', '.join(machine['instructions'])}; "
                f"{machine['system']}; "
                + ", ".join(f"{k} {v}" for k, v in versions.items() if k != "clusterfit")
            )
            seen.setdefault(text, []).append(name)
    for text, names in seen.items():
        lines.append(f"- {', '.join(names)}: {text}")
    return "## Machine and versions\n\n" + "\n".join(lines)


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
    gemm_row = find_row(rows, "bf16 GEMM", DEFAULT)
    labels = {a["label"] for r in gemm_row.records for a in r["attempts"]} - {"warm-up"}
    gemm = min(
        (time_each_round(gemm_row, label) for label in sorted(labels)),
        key=lambda times: summarize(times.values()).median,
    )
    lines = []
    for row in rows:
        times = gemm if row is gemm_row else time_each_round(row)
        wrong = [a["farther_rows"] for r in row.records for a in r["attempts"] if "farther_rows" in a]
        lines.append(
            [
                _name_setting(rows, row),
                show_spread(summarize(times.values())),
                show_spread(summarize(flops / t / 1e9 for t in times.values()), 0),
                show_spread(divide_by_round(times, ours), 2, "x"),
                show_spread(divide_by_round(gemm, times), 2),
                f"{max(wrong)}" if wrong else "-",
                f"{row.peak_bytes / 2**20:,.0f}",
            ]
        )
    head = ["side", "seconds", "GFLOP/s", f"of {OURS}'s time", "of the GEMM's rate",
            "rows not at their nearest", "peak MiB"]  # fmt: skip
    return table(head, lines)


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
            ]
        )
    head = ["side", "seconds to the target", "with the first use", f"of {OURS}'s time",
            "best objective - target", "peak MiB"]  # fmt: skip
    name = content["case"]
    plot = f"![Time to objective, {name}](images/benchmarks-{name}.svg)"
    return "\n\n".join([table(head, lines), plot])


def _plot_fit(content: Content) -> str:
    rows = list_rows(content["records"])
    targets = find_targets(rows)
    num_rows, dim, num_clusters = content["shape"]
    curves = {
        show_row(row): trace_points(row, targets)
        for row in rows
        if row.setting == BEST or row.side.startswith(OURS)
    }
    title = f"{content['data'].split('-')[0]} features, {num_rows:,} x {dim}, K = {num_clusters:,}"
    return draw_time_to_objective(curves, 1.0, title)


_SECTIONS: Final[Mapping[str, Callable[[Content], str]]] = {
    "blas": _build_blas,
    "assign": _build_assign,
    **dict.fromkeys(FIT_CASES, _build_fit),
}
