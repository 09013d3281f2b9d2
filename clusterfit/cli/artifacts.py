"""`clusterfit artifacts`: what a run has made, and whether it is still what it was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clusterfit.cli.options import StorageRoot
from clusterfit.cli.sizes import format_bytes

if TYPE_CHECKING:
    from clusterfit.artifacts.layout import RunDirectory

app = typer.Typer(help="List and verify what runs have made.", no_args_is_help=True)


@app.command("ls")
def list_(
    run: Annotated[str, typer.Argument(help="A run's name; empty: all runs.")] = "",
    storage_root: StorageRoot = Path("runs"),
) -> None:
    """List the finished artifacts of a run, or of all runs."""
    from clusterfit.artifacts.layout import list_runs
    from clusterfit.artifacts.verify import list_artifacts

    runs = [_find_run(storage_root, run)] if run else list_runs(storage_root)
    if not runs:
        print(f"no runs below {storage_root}")
    for directory in runs:
        for artifact in list_artifacts(directory):
            size = format_bytes(artifact.size_bytes)
            files = f"{len(artifact.manifest.files)} files"
            name = f"{directory.name}/{artifact.name}"
            print(f"{name:<44} {files:>12} {size:>10}  {artifact.manifest.fingerprint[:12]}")


@app.command()
def verify(
    run: Annotated[str, typer.Argument(help="A run's name.")],
    storage_root: StorageRoot = Path("runs"),
) -> None:
    """Read every file of a run and say which are missing or damaged (65)."""
    from clusterfit.artifacts.verify import find_faults, list_artifacts
    from clusterfit.errors import InvalidDataError

    directory = _find_run(storage_root, run)
    if faults := list(find_faults(directory)):
        raise InvalidDataError(
            *faults, "delete what is named and run its stage again: only that is redone"
        )
    artifacts = list_artifacts(directory)
    num_files = sum(len(artifact.manifest.files) for artifact in artifacts)
    print(f"ok: {num_files} files of {len(artifacts)} artifacts hold what their manifests say")


def _find_run(storage_root: Path, name: str) -> RunDirectory:
    from clusterfit.artifacts.layout import RunDirectory, list_runs
    from clusterfit.errors import MissingInputError

    directory = RunDirectory(storage_root, name)
    if not directory.root.is_dir():
        others = ", ".join(run.name for run in list_runs(storage_root)) or "none"
        raise MissingInputError(f"no run {name} below {storage_root}; there are: {others}")
    return directory
