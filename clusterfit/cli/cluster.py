"""What the commands that speak to a cluster share: their options, and how they print."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from clusterfit.launch.access import Access
    from clusterfit.launch.api import Api

Namespace = Annotated[
    str,
    typer.Option(
        "-n", "--namespace", help="Namespace; by default the kubeconfig's.", show_default=False
    ),
]
Context = Annotated[
    str, typer.Option("--context", help="Context of the kubeconfig.", show_default=False)
]
Kubeconfig = Annotated[
    str,
    typer.Option("--kubeconfig", help="Kubeconfig; by default $KUBECONFIG.", show_default=False),
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")]


class Format(StrEnum):
    """How something is printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


Output = Annotated[Format, typer.Option("-o", "--output", help="How to print.")]


def find_access(namespace: str, context: str, kubeconfig: str) -> Access:
    """Return what the options mean, without asking a cluster."""
    from clusterfit.launch.access import Access, resolve_access

    return resolve_access(Access(namespace, context, kubeconfig))


def open_api(namespace: str, context: str, kubeconfig: str) -> tuple[Api, Access]:
    """Return the namespace that the options mean, connected."""
    from clusterfit.launch.api import Api
    from clusterfit.launch.connection import connect

    access = find_access(namespace, context, kubeconfig)
    return Api(lambda: connect(access), access.namespace, access.as_options()), access


def say(text: str) -> None:
    """Tell a person what goes on, apart from what a program may read."""
    print(text, file=sys.stderr, flush=True)


def print_data(data: Any, output: Format) -> None:
    """Print data for a program."""
    if output is Format.JSON:
        print(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        from clusterfit.launch.manifests import write_manifest

        print(write_manifest(data), end="")


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows below their head, in columns as wide as they need to be."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    )
    return "\n".join(lines)
