"""Plots as SVG, the same bytes from the same results."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.statistics import trace_frontier

mpl.rcParams.update(
    {
        "svg.fonttype": "path",  # looks the same wherever it is shown
        "svg.hashsalt": "clusterfit",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)

COLOURS: Final = (
    "#d1495b", "#30638e", "#5b8e7d", "#edae49", "#7d5ba6", "#8d6a4f", "#4c4c4c", "#2a9d8f",
)  # fmt: skip
_MARKERS: Final = "osD^vP*X"

Curve = Sequence[tuple[float, float]]


def draw_time_to_objective(curves: Mapping[str, Curve], target: float, title: str) -> str:
    """Return an SVG: seconds across, the objective above the target in percent upwards.

    Each side's points are its attempts; its line joins those that no other of its points beats in
    both.
    """
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    highest = 0.0
    for number, (name, points) in enumerate(curves.items()):
        excess = [(seconds, 100 * (objective / target - 1)) for seconds, objective in points]
        colour, marker = COLOURS[number % len(COLOURS)], _MARKERS[number % len(_MARKERS)]
        axes.plot(*zip(*excess, strict=True), marker, color=colour, ms=4, alpha=0.45)
        axes.plot(
            *zip(*trace_frontier(excess), strict=True), "-", marker=marker, color=colour, ms=4,
            lw=1.6, label=name,
        )  # fmt: skip
        highest = max(highest, min(e for _, e in excess), 1.0)
    axes.axhline(0, color="#888888", lw=0.9, ls="--", zorder=0)
    axes.annotate(
        "faiss.Kmeans after 25 iterations",
        (0.995, 0),
        xycoords=("axes fraction", "data"),
        xytext=(0, -4),
        textcoords="offset points",
        ha="right",
        va="top",
        color="#666666",
        fontsize=8,
    )
    _scale_seconds(axes)
    axes.set_ylim(top=max(6.0, 2.5 * highest))
    axes.set_ylabel("objective above the target (%)")
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    return _write(figure)


def draw_lines(
    curves: Mapping[str, Curve], x_label: str, y_label: str, title: str, has_log_x: bool
) -> str:
    """Return an SVG of curves on a logarithmic vertical axis."""
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.subplots()
    for number, (name, points) in enumerate(curves.items()):
        axes.plot(*zip(*points, strict=True), color=COLOURS[number % len(COLOURS)], label=name)
    axes.set_yscale("log")
    if has_log_x:
        axes.set_xscale("log")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    return _write(figure)


def _scale_seconds(axes: Any) -> None:
    axes.set_xscale("log")
    axes.set_xlabel("seconds (logarithmic)")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _write(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"
