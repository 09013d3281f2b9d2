"""`clusterfit supervise`: what the release's own pod runs; nobody types it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clusterfit.errors import ConfigError


def supervise(
    plan: Annotated[Path, typer.Option("--plan", help="plan.json of the release.")],
) -> None:
    """Take a release through its stages, from inside the cluster."""
    from clusterfit.launch.api import Api
    from clusterfit.launch.connection import connect_from_pod
    from clusterfit.launch.plan import parse_plan
    from clusterfit.launch.supervise import supervise as supervise_release

    try:
        parsed = parse_plan(plan.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{plan}: {error.strerror}") from None
    api = Api(connect_from_pod, parsed.namespace)
    raise typer.Exit(supervise_release(api, parsed))
