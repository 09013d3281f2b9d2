"""`clusterfit run`: the local door."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from clusterfit.cli.options import Overrides, RunFiles, StorageRoot, load


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


def run(
    step: Annotated[Step, typer.Argument(help="A step, a stage, or all that the file lists.")],
    file: RunFiles,
    override: Overrides,
    nproc_per_node: Annotated[
        int,
        typer.Option(min=0, help="Processes of each stage; 0: one, or one for each GPU."),
    ] = 0,
    data_root: Annotated[
        Path | None,
        typer.Option(help="Where paths under data start; by default the first run file's folder."),
    ] = None,
    storage_root: StorageRoot = Path("runs"),
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Do the step again, whatever is there; its artifacts go."),
    ] = False,
) -> None:
    """Run a step here, on CPU cores or this machine's GPUs; finished stages are skipped."""
    from clusterfit.artifacts.layout import RunDirectory
    from clusterfit.cli.packages import check_worker_modules
    from clusterfit.cli.results import print_results
    from clusterfit.config.loading import check_node
    from clusterfit.config.overrides import parse_override
    from clusterfit.config.provenance import merge
    from clusterfit.config.stages import list_step_stages
    from clusterfit.launch.local import LocalRun, run_stages
    from clusterfit.launch.progress import StageDisplay

    loaded = load(file, override)
    run_file = loaded.run_file
    stages = list_step_stages(step.value, run_file.stages)
    if stages != run_file.stages:  # Not loaded again: the standard input can be read but once.
        run_file = check_node(merge(loaded.given, parse_override(f"stages={json.dumps(stages)}")))
    check_worker_modules(stages)
    local = LocalRun(
        config=run_file.algorithm(),
        data_root=data_root or file[0].parent,
        storage_root=storage_root,
        nproc_per_node=nproc_per_node,
        overwrite=overwrite,
    )
    with StageDisplay() as view:
        view.begin(stages[0])
        code = run_stages(local, stages, view.show)
        view.end(code)
    if code:
        raise typer.Exit(code)
    if "evaluate" in stages:
        print_results(RunDirectory(storage_root, run_file.name))
