"""`clusterfit config`: what a run file says, and what is wrong with it."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from clusterfit.cli.options import Overrides, RunFiles, load

app = typer.Typer(help="Check and explain a run file.", no_args_is_help=True)


class _Format(StrEnum):
    YAML = "yaml"
    JSON = "json"


@app.command()
def show(
    file: RunFiles,
    override: Overrides,
    origin: Annotated[
        bool, typer.Option("--origin", help="Say where each value comes from.")
    ] = False,
    output: Annotated[_Format, typer.Option("-o", "--output", help="How to print.")] = _Format.YAML,
) -> None:
    """Print every value of a run.

    Defaults are included, and what is printed is itself a run file.
    """
    from clusterfit.config.provenance import format_path
    from clusterfit.config.writer import format_yaml

    loaded = load(file, override)
    values = loaded.run_file.dump()
    if output is _Format.JSON:
        origins = {format_path(path): str(place) for path, place in loaded.origins().items()}
        content = {"values": values, "origins": origins} if origin else values
        print(json.dumps(content, indent=2, ensure_ascii=False))
    elif origin:
        print(format_yaml(values, beside=lambda path: str(loaded.origin(path))), end="")
    else:
        print(format_yaml(values), end="")


@app.command()
def check(file: RunFiles, override: Overrides) -> None:
    """Say what is wrong with a run file.

    One line for each fault, and exit code 64; or one line that it is right.
    """
    run_file = load(file, override).run_file
    print(f"ok: run {run_file.name}, stages {', '.join(run_file.stages)}")


@app.command()
def schema() -> None:
    """Print the run file's JSON schema.

    Editors that know it complete keys and mark mistakes as you type.
    """
    from clusterfit.config.schema import build_schema, format_schema

    print(format_schema(build_schema()), end="")
