"""`clusterfit render` and `clusterfit submit`: a run file towards a cluster."""

from __future__ import annotations

import secrets
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clusterfit.cli.amounts import format_count
from clusterfit.cli.cluster import (
    Context,
    Format,
    Kubeconfig,
    Namespace,
    find_access,
    format_table,
    open_api,
    print_data,
    say,
)
from clusterfit.cli.options import AskedStep, Overrides, RunFiles
from clusterfit.errors import ConfigError, WriteError

if TYPE_CHECKING:
    from clusterfit.launch.access import Access
    from clusterfit.launch.api import Api
    from clusterfit.launch.render import Rendered
    from clusterfit.launch.submit import Submission

Gpus = Annotated[
    int,
    typer.Option(
        "--gpus",
        min=-1,
        help="GPUs of each stage that has no number of its own, instead of platform.gpus.",
        show_default=False,
    ),
]


class DryRun(StrEnum):
    """Who judges a submission that is only tried."""

    CLIENT = "client"
    SERVER = "server"


def render(
    step: AskedStep,
    file: RunFiles,
    override: Overrides,
    gpus: Gpus = -1,
    output: Annotated[Format, typer.Option("-o", "--output", help="How to print.")] = Format.YAML,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", help="Write one file per object.", show_default=False),
    ] = None,
    namespace: Namespace = "",
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Print what a submission would create, without a cluster; the same bytes each time."""
    from clusterfit.launch.manifests import write_manifest, write_manifests

    access = find_access(namespace, context, kubeconfig)
    rendered = _render(step.value, file, override, gpus, access.namespace)
    if output_dir is not None:
        for position, manifest in enumerate(rendered.manifests):
            name = f"{position:02}-{manifest['kind'].lower()}-{manifest['metadata']['name']}.yaml"
            try:
                output_dir.mkdir(parents=True, exist_ok=True)
                (output_dir / name).write_text(write_manifest(manifest), encoding="utf-8")
            except OSError as error:
                raise WriteError(f"{output_dir / name}: {error.strerror}") from None
        say(f"wrote {format_count(len(rendered.manifests), 'object')} to {output_dir}")
    elif output is Format.TABLE:
        print(_format_objects(rendered))
    elif output is Format.JSON:
        items = {"apiVersion": "v1", "kind": "List", "items": rendered.manifests}
        print_data(items, Format.JSON)
    else:
        print(write_manifests(rendered.manifests), end="")


def submit(
    step: AskedStep,
    file: RunFiles,
    override: Overrides,
    gpus: Gpus = -1,
    follow: Annotated[
        bool, typer.Option("--follow", help="Stay, show the log, and exit with the run's result.")
    ] = False,
    dry_run: Annotated[
        DryRun | None,
        typer.Option(
            "--dry-run",
            help="client: only render and check. server: let the cluster judge every object.",
            show_default=False,
        ),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Remove what was submitted for these stages before: other content, or the same "
            "where it has failed.",
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Do the stages again, whatever is there; their artifacts go.",
        ),
    ] = False,
    namespace: Namespace = "",
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Submit a run to a cluster. The same submission again does nothing."""
    from clusterfit.launch.helm import find_helm
    from clusterfit.launch.submit import submit as submit_release

    if overwrite:
        override = [*override, f'platform.overwriteToken="{secrets.token_hex(8)}"']
    access = find_access(namespace, context, kubeconfig)
    # What is wrong with the file is said before what is wrong with the cluster.
    rendered = _render(step.value, file, override, gpus, access.namespace)
    if dry_run is DryRun.CLIENT:
        print(_format_objects(rendered))
        print("ok: rendered and checked; the cluster was not asked")
        return
    api, access = open_api(namespace, context, kubeconfig)
    if dry_run is DryRun.SERVER:
        _print_verdicts(api, access, rendered, replace)
        return
    submission = submit_release(find_helm(), api, access, rendered, replace, say)
    _print_outcome(submission, rendered, access)
    if follow:
        from clusterfit.cli.logs import follow_run

        raise typer.Exit(follow_run(api, access, rendered.run.name, submission.release))


def _render(
    step: str,
    files: list[Path],
    overrides: list[str],
    gpus: int,
    namespace: str,
) -> Rendered:
    from clusterfit.launch.helm import find_helm
    from clusterfit.launch.invariants import find_restrictions
    from clusterfit.launch.render import render_run
    from clusterfit.launch.submission import find_remarks, load_submission

    if not files:
        raise ConfigError("no run file is given: -f FILE; `clusterfit init` writes one")
    run = load_submission(step, files, overrides, gpus)
    rendered = render_run(find_helm(), run, namespace)
    for remark in find_remarks(run, gpus):
        say(f"note: {remark}")
    for restriction in find_restrictions(rendered.manifests):
        say(f"note: a namespace that enforces `restricted` would refuse the pods: {restriction}")
    return rendered


def _format_objects(rendered: Rendered) -> str:
    rows = [(item["kind"], item["metadata"]["name"]) for item in rendered.manifests]
    return format_table(("KIND", "NAME"), rows)


def _print_verdicts(api: Api, access: Access, rendered: Rendered, replace: bool) -> None:
    from clusterfit.launch.dry_run import dry_run
    from clusterfit.launch.helm import find_helm

    verdicts = list(dry_run(find_helm(), api, access, rendered, replace))
    rows = [
        (verdict.kind, verdict.name, f"refused: {verdict.fault}" if verdict.fault else "ok")
        for verdict in verdicts
    ]
    print(format_table(("KIND", "NAME", "VERDICT"), rows))
    refused = [f"{verdict.kind} {verdict.name}" for verdict in verdicts if verdict.fault]
    if refused:
        say(f"error: refused: {', '.join(refused)}; nothing was created")
        raise typer.Exit(1)
    print("ok: the cluster would accept every object; nothing was created")


def _print_outcome(submission: Submission, rendered: Rendered, access: Access) -> None:
    from clusterfit.launch.submit import Outcome

    run, options = rendered.run.name, access.as_options()
    if submission.outcome is Outcome.UNCHANGED:
        print(f"unchanged: {submission.release} is there already, with the same content")
    elif submission.outcome is Outcome.STUCK:
        print(
            f"unchanged: {submission.release} is there already, with the same content, and will "
            "not go on by itself; --replace runs it again (what is finished stays)"
        )
    else:
        print(f"{submission.outcome} {submission.release} to namespace {access.namespace}:")
        for stage in rendered.run.stages:
            resources = rendered.run.platform.for_stage(stage)
            nodes = format_count(resources.nodes, "node")
            each = format_count(resources.gpus_per_pod, "GPU")
            gpus = f" x {each}" if resources.gpus else ", no GPUs"
            print(f"  {stage:9}{nodes}{gpus}")
    print(f"status:  clusterfit status {run}{options}")
    print(f"log:     clusterfit logs {run}{options} --follow")
    print(f"remove:  clusterfit delete {run}{options}")
