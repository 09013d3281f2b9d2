"""`clusterfit weights`: what a weights file is, before a run depends on it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from clusterfit.cli.amounts import format_bytes, format_count
from clusterfit.cli.cluster import Format, Output, format_table, print_data

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
        "size_bytes": inspection.size_bytes,
        "format": inspection.file_format,
        "found_at": inspection.found_at,
        "reason": inspection.reason,
        "num_values": inspection.num_values,
        "tensors": [
            {"key": entry.key, "shape": list(entry.shape), "dtype": entry.dtype}
            for entry in inspection.tensors
        ],
        "fits": [asdict(fit) | {"fraction": round(fit.fraction, 4)} for fit in inspection.fits],
        "foreign": inspection.foreign,
        "notes": list(inspection.notes),
    }


def _print_inspection(inspection: Inspection, keys: bool) -> None:
    size = format_bytes(inspection.size_bytes)
    print(f"{inspection.path}: {inspection.file_format}, {size}")
    print(f"state dict at {inspection.found_at}: {inspection.reason}")
    tensors = format_count(len(inspection.tensors), "tensor")
    print(f"{tensors}, {format_count(inspection.num_values, 'value')}")
    for note in inspection.notes:
        print(f"note: {note}")
    shown = inspection.tensors if keys else inspection.tensors[:_MOST_KEYS]
    rows = [(entry.key, "x".join(map(str, entry.shape)) or "-", entry.dtype) for entry in shown]
    print()
    print(format_table(("KEY", "SHAPE", "TYPE"), rows))
    if len(shown) < len(inspection.tensors):
        print(f"... and {len(inspection.tensors) - len(shown):,} more; --keys lists them")
    print()
    if inspection.foreign:
        print(f"refused by every network: it is {inspection.foreign}")
    elif not inspection.fits:
        print("fits no network of torchvision's")
    else:
        rows = [_format_fit(fit) for fit in inspection.fits[:_MOST_FITS]]
        print(format_table(("MODEL", "BACKBONE", "VERDICT"), rows))


def _format_fit(fit: Fit) -> tuple[str, str, str]:
    from clusterfit.config.sections.inputs import Weights

    missing = fit.num_wanted - fit.num_found
    if fit.num_misshapen:
        verdict = f"refused: {format_count(fit.num_misshapen, 'tensor')} of another shape"
    elif fit.fraction < Weights().min_loaded_fraction:
        verdict = (
            f"refused: {format_count(fit.num_surplus, 'tensor')} more in the file, of a larger "
            "network"
            if fit.num_surplus
            else f"refused: {format_count(missing, 'tensor')} missing"
        )
    else:
        verdict = f"loads, without {format_count(missing, 'tensor')}" if missing else "loads"
    if fit.settings:
        verdict = f"{verdict}; with {fit.settings}"
    return fit.model, f"{fit.num_found} of {fit.num_wanted}", verdict
