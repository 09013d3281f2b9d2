"""The table of the case `loading`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from benchmarks.cases import OURS
from benchmarks.statistics import divide_by_round, summarize
from benchmarks.tables import Content, show_spread, table

LOADING: Final = "loading"


def build_loading(content: Content) -> str:
    """Return what an image costs on each side, and how many fit into a second."""
    seconds: dict[tuple[str, str], dict[int, float]] = {}
    for record in content["records"]:
        side = seconds.setdefault((record["view"], record["side"]), {})
        side[record["round"]] = record["seconds"]
    lines = []
    for (view, name), rounds in seconds.items():
        times = summarize(1e3 * each for each in rounds.values())
        ratio = divide_by_round(rounds, seconds[view, OURS]) if name != OURS else None
        lines.append(
            [
                f"{view}: {name}",
                show_spread(times),
                f"{1e3 / times.median:,.0f}",
                show_spread(ratio, 2, " x"),
            ]
        )
    head = ["view", "ms an image", "images a second and core", "of clusterfit's time"]
    return f"{_describe(content)}\n\n{table(head, lines)}"


def _describe(content: Mapping[str, Any]) -> str:
    busiest = max(record["foreign_cores"] for record in content["records"])
    return (
        f"Files of {content['mean_bytes'] / 1e3:.0f} kB in the page cache; processor time, which "
        "other processes disturb less than the clock: they kept up to "
        f"{busiest:.1f} cores busy."
    )
