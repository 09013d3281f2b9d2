"""`clusterfit put` and `clusterfit get`: files onto the claims and out of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clusterfit.cli.amounts import format_bytes, format_count
from clusterfit.cli.cluster import Context, Kubeconfig, Namespace, open_api, say
from clusterfit.cli.options import Overrides, RunFiles
from clusterfit.errors import ConfigError, MissingInputError

if TYPE_CHECKING:
    from clusterfit.launch.access import Access
    from clusterfit.launch.api import Api
    from clusterfit.launch.files import Amount
    from clusterfit.launch.manifests import Manifest

Run = Annotated[
    str,
    typer.Option("--run", metavar="RUN", help="A submitted run, instead of its run file."),
]


def put(
    source: Annotated[Path, typer.Argument(help="A file or folder here.")],
    target: Annotated[str, typer.Argument(metavar="data:PATH|storage:PATH", help="Where to.")],
    file: RunFiles,
    override: Overrides,
    run: Run = "",
    namespace: Namespace = "",
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Copy images or weights onto a run's claims. Again, it sends only what is missing."""
    from clusterfit.launch.files import open_claim, parse_place, put_files

    place = parse_place(target)
    if not source.exists():
        raise MissingInputError(f"{source}: no such file or folder")
    api, access = open_api(namespace, context, kubeconfig)
    name, template = _find_template(api, access, file, override, run)
    with open_claim(api, template, name, place, say, writable=True) as (pod, place):
        put_files(api, pod, source, place, _begin)
    print(f"ok: {source} is at {target}")


def get(
    source: Annotated[str, typer.Argument(metavar="data:PATH|storage:PATH", help="What.")],
    target: Annotated[Path, typer.Argument(help="A folder here; made where it is missing.")],
    file: RunFiles,
    override: Overrides,
    run: Run = "",
    namespace: Namespace = "",
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Copy artifacts out of a run's claims. Again, it fetches only what is missing."""
    from clusterfit.launch.files import get_files, open_claim, parse_place

    place = parse_place(source)
    api, access = open_api(namespace, context, kubeconfig)
    name, template = _find_template(api, access, file, override, run)
    with open_claim(api, template, name, place, say, writable=False) as (pod, place):
        amount = get_files(api, pod, place, target, _begin)
    if amount.num_gone:
        say(f"left out: {amount.num_gone} that a stage at work has removed or renamed meanwhile")
    print(f"ok: {source} is in {target}")


def _find_template(
    api: Api, access: Access, files: list[Path], overrides: list[str], run: str
) -> tuple[str, Manifest]:
    """Return the run's name and the pod that reaches its claims, submitted or not."""
    import json

    from clusterfit.config.loading import load_run_file
    from clusterfit.launch.helm import find_helm
    from clusterfit.launch.plan import find_releases
    from clusterfit.launch.render import render_run

    if bool(run) == bool(files):
        raise ConfigError("whose claims? give a run file (-f FILE) or a submitted run (--run RUN)")
    if run:
        return run, find_releases(api, run)[0].files_pod
    run_file = load_run_file(files, overrides).run_file
    config_map = render_run(find_helm(), run_file, access.namespace).config_map
    return run_file.name, json.loads(config_map["data"]["files-pod.json"])


def _begin(amount: Amount) -> Callable[[int], None]:
    """Say what is to be done, and return what tells how far it is."""
    there = f"; {amount.num_there:,} more there already" if amount.num_there else ""
    say(f"{format_count(amount.num_files, 'file')}, {format_bytes(amount.num_bytes)}{there}")
    sent = 0
    told = 0

    def tell(size: int) -> None:
        nonlocal sent, told
        sent += size
        percent = 100 * sent // max(1, amount.num_bytes)
        if percent >= told + 10:
            told = percent - percent % 10
            say(f"{told} % ({format_bytes(sent)})")

    return tell
