"""`clusterfit run`: the local door."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clusterfit.cli.options import AskedStep, Overrides, RunFiles, StorageRoot, load


def run(
    step: AskedStep,
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
    from clusterfit.config.stages import narrow_to
    from clusterfit.launch.local import LocalRun, run_stages
    from clusterfit.launch.progress import StageDisplay

    run_file = load(file, [*override, *narrow_to(step.value)]).run_file
    stages = run_file.stages
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
