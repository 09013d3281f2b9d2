"""`clusterfit import-vissl`: a VISSL configuration becomes a run file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TextIO

import typer

from clusterfit.errors import ConfigError, WriteError

if TYPE_CHECKING:
    from clusterfit.interop.vissl_config.conversion import Conversion
    from clusterfit.interop.vissl_config.reading import Verdict

STDOUT: Final = Path("-")
"""Stands for the standard output where a file is wanted."""

_COLUMN: Final = 62
"""Where the second column begins; the longest keys reach into it."""


def import_vissl(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.yaml", help="A file of VISSL's configs/config.")
    ],
    override: Annotated[
        list[str],
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="As on VISSL's command line: config.CLUSTERFIT.NUM_CLUSTERS=4000, or "
            "+config/FOLDER=NAME for one more file.",
            default_factory=list,
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The run file; - is standard output.")
    ] = Path("run.yaml"),
    name: Annotated[str, typer.Option(help="The run's name; by default made of the file's.")] = "",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run file where it is there already.")
    ] = False,
) -> None:
    """Turn a VISSL configuration into a run file, and say what became of each key."""
    from clusterfit.interop.vissl_config.conversion import convert

    conversion = convert(config, override, name)
    if output == STDOUT:
        print(conversion.text, end="")
        _print_account(conversion, sys.stderr)
        return
    try:
        with output.open("w" if overwrite else "x", encoding="utf-8") as file:
            file.write(conversion.text)
    except FileExistsError:
        raise ConfigError(
            f"{output}: already there; name another file with -o, or add --overwrite"
        ) from None
    except OSError as error:
        raise WriteError(f"{output}: {error.strerror}") from None
    _print_account(conversion, sys.stdout)
    print(f"\nwrote {output}: {conversion.purpose.value}")
    _print_next_steps(conversion, output)


def _print_account(conversion: Conversion, file: TextIO) -> None:
    """Print every key below what became of it, the most telling first."""
    from clusterfit.interop.vissl_config.reading import Outcome

    for outcome in (
        Outcome.UNKNOWN, Outcome.CHANGED, Outcome.DEFAULT, Outcome.TAKEN, Outcome.WITHOUT_EFFECT,
    ):  # fmt: skip
        verdicts = [verdict for verdict in conversion.verdicts if verdict.outcome is outcome]
        if verdicts:
            print(f"{outcome.value}:", file=file)
        for verdict in verdicts:
            for line in _format_verdict(verdict):
                print(line, file=file)


def _format_verdict(verdict: Verdict) -> list[str]:
    beside = verdict.ours or verdict.reason
    line = f"  {verdict.key:<{_COLUMN}}  {beside}".rstrip()
    return [line, f"      {verdict.reason}"] if verdict.ours and verdict.reason else [line]


def _print_next_steps(conversion: Conversion, output: Path) -> None:
    """Print what has to be put where, and what to run."""
    for placement in conversion.placements:
        if placement.root == "storage" and placement.theirs != placement.ours:
            print(f"put     {placement.theirs}  ->  runs/{placement.ours}")
    roots = {
        placement.theirs.removesuffix(placement.ours).rstrip("/")
        for placement in conversion.placements
        if placement.root == "data" and placement.theirs.startswith("/")
    }
    data_root = f" --data-root {min(roots)}" if roots else ""
    print(f"check   clusterfit config check -f {output}")
    print(f"run     clusterfit run pipeline -f {output}{data_root}")
