"""`clusterfit weights`: what a weights file is, before a run depends on it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from clusterfit.cli.cluster import Format, Output, format_table, print_data
from clusterfit.cli.sizes import format_bytes

if TYPE_CHECKING:
    from clusterfit.interop.inspection import Fit, Inspection

app = typer.Typer(help="Look into weights files.", no_args_is_help=True)

_MOST_FITS: Final = 5
_MOST_KEYS: Final = 8


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A weights file of anybody's.")],
    state_dict_key: Annotated[
        str,
        typer.Option(help="Dotted keys that lead to the state dict, as extract.weights has it."),
    ] = "",
    keys: Annotated[bool, typer.Option("--keys", help="List every tensor.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Say what a weights file holds and which networks it fills; nothing in it is executed."""
    from clusterfit.interop.inspection import inspect_weights

    inspection = inspect_weights(file, state_dict_key)
    if output is Format.TABLE:
        _print_inspection(inspection, keys)
    else:
        print_data(_describe(inspection), output)


def _describe(inspection: Inspection) -> dict[str, Any]:
    return {
        "file": str(inspection.path),
        "sizeBytes": inspection.size_bytes,
        "format": inspection.file_format,
        "foundAt": inspection.found_at,
        "reason": inspection.reason,
        "numValues": inspection.num_values,
        "tensors": [
            {"key": entry.key, "shape": list(entry.shape), "dtype": entry.dtype}
            for entry in inspection.tensors
        ],
        "fits": [asdict(fit) | {"fraction": fit.fraction} for fit in inspection.fits],
        "notes": list(inspection.notes),
    }


def _print_inspection(inspection: Inspection, keys: bool) -> None:
    size = format_bytes(inspection.size_bytes)
    print(f"{inspection.path}: {inspection.file_format}, {size}")
    print(f"state dict at {inspection.found_at}: {inspection.reason}")
    print(f"{len(inspection.tensors)} tensors, {inspection.num_values:,} values")
    for note in inspection.notes:
        print(f"note: {note}")
    shown = inspection.tensors if keys else inspection.tensors[:_MOST_KEYS]
    rows = [(entry.key, "x".join(map(str, entry.shape)) or "-", entry.dtype) for entry in shown]
    print()
    print(format_table(("KEY", "SHAPE", "TYPE"), rows))
    if len(shown) < len(inspection.tensors):
        print(f"... and {len(inspection.tensors) - len(shown)} more; --keys lists them")
    print()
    if not inspection.fits:
        print("fits no network of torchvision's")
        return
    fits = inspection.fits[:_MOST_FITS]
    print(format_table(("MODEL", "BACKBONE", "VERDICT"), [_format_fit(fit) for fit in fits]))


def _format_fit(fit: Fit) -> tuple[str, str, str]:
    verdict = "loads"
    if fit.num_misshapen:
        verdict = f"refused: {fit.num_misshapen} tensors of another shape"
    elif fit.num_surplus:
        verdict = f"{fit.num_surplus} more tensors in the file: a larger network's?"
    elif fit.num_found < fit.num_wanted:
        verdict = f"{fit.num_wanted - fit.num_found} tensors missing"
    if fit.settings:
        verdict = f"{verdict}, with {fit.settings}"
    return fit.model, f"{fit.num_found} of {fit.num_wanted}", verdict
