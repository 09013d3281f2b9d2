"""The `clusterfit` command: its groups, and how every command ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import clusterfit
from clusterfit.cli import (
    artifacts,
    config,
    files,
    import_vissl,
    init,
    logs,
    plan,
    run,
    runs,
    submit,
    supervise,
    weights,
)
from clusterfit.cli.packages import WORKER_MODULES, explain_missing
from clusterfit.errors import ClusterfitError, ConfigError

_USAGE_EXIT_CODE = 2
"""What Typer ends with after a wrong option; the code of a wrong setting says the same."""

app = typer.Typer(
    help="ClusterFit (arXiv:1912.03330) on this machine or on Kubernetes, from one run file.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

# Every command and group of commands, one line each.
app.command("init")(init.init)
app.command("import-vissl")(import_vissl.import_vissl)
app.command("run")(run.run)
app.command("plan")(plan.plan)
app.command("render")(submit.render)
app.command("submit")(submit.submit)
app.command("list")(runs.list_runs)
app.command("status")(runs.status)
app.command("logs")(logs.logs)
app.command("wait")(runs.wait)
app.command("suspend")(runs.suspend)
app.command("resume")(runs.resume)
app.command("cancel")(runs.cancel)
app.command("delete")(runs.delete)
app.command("put")(files.put)
app.command("get")(files.get)
app.command("supervise", hidden=True)(supervise.supervise)
app.add_typer(config.app, name="config")
app.add_typer(artifacts.app, name="artifacts")
app.add_typer(weights.app, name="weights")


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"clusterfit {clusterfit.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0, the failure's own code, or 130 after Ctrl-C."""
    try:
        app(args=arguments, prog_name="clusterfit")
    except ClusterfitError as error:
        for fault in error.faults:
            print(f"error: {fault}", file=sys.stderr)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if error.name not in WORKER_MODULES:
            raise
        print(f"error: {explain_missing(error.name)}", file=sys.stderr)
        sys.exit(ConfigError.exit_code)
    except SystemExit as ending:
        sys.exit(ConfigError.exit_code if ending.code == _USAGE_EXIT_CODE else ending.code)
