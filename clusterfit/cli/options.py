"""Options that several commands share, declared once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from clusterfit.errors import ConfigError

if TYPE_CHECKING:
    from clusterfit.config.loading import LoadedRunFile


class Step(StrEnum):
    """Everything that a command accepts where it asks for a step or a stage."""

    STEP1 = "step1"
    STEP2 = "step2"
    PIPELINE = "pipeline"
    PRETEXT = "pretext"
    EXTRACT = "extract"
    CLUSTER = "cluster"
    TRAIN = "train"
    EVALUATE = "evaluate"


STEP_HELP: Final = (
    "step1 (extract, cluster), step2 (train), one stage, or pipeline: all that the file lists"
)
AskedStep = Annotated[
    Step, typer.Argument(metavar="STEP", help=f"{STEP_HELP}.", show_default=False)
]
RunFiles = Annotated[
    list[Path],
    typer.Option(
        "-f",
        "--file",
        metavar="FILE",
        help="A run file; several are laid over each other in their order, - is standard input.",
        default_factory=list,
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=JSON",
        help="Override one value: --set cluster.numClusters=100, --set 'name=\"other\"'.",
        default_factory=list,
        show_default=False,
    ),
]
StorageRoot = Annotated[Path, typer.Option(help="Where run directories are.")]


def load(files: list[Path], overrides: list[str]) -> LoadedRunFile:
    """Return the run file that these two options describe.

    Raises:
        ConfigError: no file is given, or something in it is wrong.
    """
    from clusterfit.config.loading import load_run_file

    if not files:
        raise ConfigError("no run file is given: -f FILE; `clusterfit init` writes one")
    return load_run_file(files, overrides)
