"""What evaluate found, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from clusterfit.artifacts.files import read_json
from clusterfit.cli.amounts import format_count

if TYPE_CHECKING:
    from clusterfit.artifacts.layout import RunDirectory

Cells = Mapping[str, float]
"""Column -> a fraction."""


def print_results(run: RunDirectory) -> None:
    """Print a table for each kind of protocol that a run's backbones were judged by."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    results = read_json(run.results())
    num_judged = results["num_val"] - results["num_val_excluded"]
    console = Console(highlight=False, markup=False, emoji=False)  # labels are anybody's
    for what, rows in _list_tables(results):
        images = format_count(num_judged, "held-out image")
        console.print(f"{run.name}: {what} on {images}", soft_wrap=True)
        table = Table(box=SIMPLE_HEAD)
        table.add_column("backbone")
        for column in next(iter(rows.values())):
            table.add_column(column, justify="right")
        for label, cells in rows.items():
            table.add_row(label, *(f"{100 * fraction:.1f} %" for fraction in cells.values()))
        console.print(table)
    if excluded := results["num_train_excluded"] + results["num_val_excluded"]:
        images = format_count(excluded, "image")
        named = run.results().with_name("excluded.txt")
        console.print(f"{images} could not be read: {named}", soft_wrap=True)
    console.print(f"written to {run.results()}", soft_wrap=True)


def _list_tables(results: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Cells]]]:
    """Yield (what is told, cells by backbone) of each table."""
    backbones = {row["label"]: row for row in results["backbones"]}
    first = next(iter(backbones.values()))
    if "linear" in first or "knn" in first:
        yield "accuracy", {label: dict(_list_accuracies(row)) for label, row in backbones.items()}
    for protocol, measure, what in (
        ("heads", "top1", "accuracy of linear heads"),
        ("svm", "mean_average_precision", "mean average precision of SVMs"),
    ):
        if protocol in first:
            yield (
                what,
                {
                    label: {layer: found[measure] for layer, found in row[protocol].items()}
                    for label, row in backbones.items()
                },
            )


def _list_accuracies(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    linear = row.get("linear", {})
    for labels_per_class in sorted((key for key in linear if key != "all"), key=int):
        yield f"linear, {int(labels_per_class):,} a class", linear[labels_per_class]
    if linear:
        yield "linear, all labels", linear["all"]
    if "knn" in row:
        yield "k-NN", row["knn"]
