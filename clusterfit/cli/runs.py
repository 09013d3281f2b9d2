"""Commands on runs that were submitted: list, status, wait, suspend, resume, cancel, delete."""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING, Annotated

import typer

from clusterfit.cli.cluster import (
    Context,
    Format,
    Kubeconfig,
    Namespace,
    Output,
    RunName,
    format_table,
    open_api,
    print_data,
    say,
)

if TYPE_CHECKING:
    from clusterfit.launch.plan import PlannedStage
    from clusterfit.launch.status import RunStatus, StageStatus


def list_runs(
    output: Output = Format.TABLE,
    namespace: Namespace = "",
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """List the runs of a namespace, whoever submitted them."""
    from clusterfit.launch.api import check_namespace
    from clusterfit.launch.jobs import read_all_jobs
    from clusterfit.launch.plan import list_releases
    from clusterfit.launch.sequence import look_closely
    from clusterfit.launch.status import summarise

    api, _ = open_api(namespace, context, kubeconfig)
    releases = list_releases(api)
    if not releases:
        check_namespace(api)
    find = read_all_jobs(api, [release.plan for release in releases])
    listed = [
        {
            "run": release.plan.run,
            "release": release.plan.release,
            "stages": [stage.stage for stage in release.plan.stages],
            "phase": summarise(
                [view.state.phase for view in look_closely(api, release.plan, find)]
            ).value,
            "created": release.created,
        }
        for release in releases
    ]
    if output is not Format.TABLE:
        print_data(listed, output)
    elif not listed:
        say(f"no runs in namespace {api.namespace}")
    else:
        rows = [
            (str(item["run"]), str(item["release"]), ",".join(item["stages"]), str(item["phase"]),
             str(item["created"]))
            for item in listed
        ]  # fmt: skip
        print(format_table(("RUN", "RELEASE", "STAGES", "PHASE", "CREATED"), rows))


def status(
    run: RunName,
    output: Output = Format.TABLE,
    namespace: Namespace = "",
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Say what a run does, and why where it does not move. Exits 0, 1 (failed), 3 (no such run)."""
    from clusterfit.launch.plan import find_releases
    from clusterfit.launch.status import read_status

    api, _ = open_api(namespace, context, kubeconfig)
    found = read_status(api, run, find_releases(api, run))
    if output is Format.TABLE:
        print(_format_status(found))
    else:
        print_data(found.dump(), output)
    raise typer.Exit(found.exit_code)


def wait(
    run: RunName,
    timeout: Annotated[
        float, typer.Option(help="Give up after this many seconds, with 124; 0: never.")
    ] = 0,
    namespace: Namespace = "",
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Wait until a run is over. Exits 0 (succeeded), 1 (failed or stopped), 3 (removed)."""
    from clusterfit.launch.plan import find_releases
    from clusterfit.launch.wait import wait_for_run

    api, _ = open_api(namespace, context, kubeconfig)
    raise typer.Exit(wait_for_run(api, find_releases(api, run), say, timeout))


def suspend(
    run: RunName, namespace: Namespace = "", context: Context = "", kubeconfig: Kubeconfig = ""
) -> None:
    """Stop a run's pods; its workers write a checkpoint first. `resume` goes on from there."""
    from clusterfit.launch.control import suspend_run
    from clusterfit.launch.plan import find_releases

    api, access = open_api(namespace, context, kubeconfig)
    stages = suspend_run(api, find_releases(api, run), _find_user())
    _print_stages("suspended", stages, "nothing of it runs")
    if stages:
        print(f"go on:  clusterfit resume {run}{access.as_options()}")


def resume(
    run: RunName, namespace: Namespace = "", context: Context = "", kubeconfig: Kubeconfig = ""
) -> None:
    """Let a suspended or cancelled run go on."""
    from clusterfit.launch.control import resume_run
    from clusterfit.launch.plan import find_releases

    api, _ = open_api(namespace, context, kubeconfig)
    _print_stages("resumed", resume_run(api, find_releases(api, run)), "nothing is suspended")


def cancel(
    run: RunName, namespace: Namespace = "", context: Context = "", kubeconfig: Kubeconfig = ""
) -> None:
    """Stop a run's pods and keep its objects as a record. Results stay."""
    from clusterfit.launch.control import cancel_run
    from clusterfit.launch.plan import find_releases

    api, access = open_api(namespace, context, kubeconfig)
    stages = cancel_run(api, find_releases(api, run), _find_user())
    _print_stages("cancelled", stages, "nothing of it runs")
    print(f"remove: clusterfit delete {run}{access.as_options()}")


def delete(
    run: RunName, namespace: Namespace = "", context: Context = "", kubeconfig: Kubeconfig = ""
) -> None:
    """Remove a run's objects and wait until its pods are gone. Never its data and results."""
    from clusterfit.launch.control import delete_release, needs_helm
    from clusterfit.launch.helm import find_helm
    from clusterfit.launch.plan import find_releases

    api, access = open_api(namespace, context, kubeconfig)
    releases = find_releases(api, run)
    helm = find_helm() if needs_helm(releases) else None
    for release in releases:
        delete_release(helm, api, access, release, say)
        print(f"deleted {release.plan.release}; its results stay on the claim, below {run}")


def _find_user() -> str:
    """Return who types this; a number where nobody knows a name, as in many a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _print_stages(done: str, stages: list[PlannedStage], nothing: str) -> None:
    names = ", ".join(stage.stage for stage in stages)
    print(f"{done}: {names}" if names else f"nothing to do: {nothing}")


def _format_status(found: RunStatus) -> str:
    head = ("STAGE", "PHASE", "PODS", "RESTARTS", "PROGRESS")
    rows = [
        (
            stage.stage,
            stage.phase.value,
            # A stage that is done wants no pod any more: 0/2 would read as a lack of them.
            "-" if stage.is_done else f"{stage.running_pods}/{stage.wanted_pods}",
            str(stage.restarts),
            _format_progress(stage),
        )
        for stage in found.stages
    ]
    lines = [f"run {found.run} in namespace {found.namespace}: {found.phase.value}", ""]
    lines.append(format_table(head, rows))
    for stage in found.stages:
        if stage.cause.text:
            lines.append(f"\n{stage.stage}: {stage.cause.text}")
            if stage.cause.advice:
                lines.append(f"  -> {stage.cause.advice}")
    return "\n".join(lines)


def _format_progress(stage: StageStatus) -> str:
    from clusterfit.launch.progress import format_seconds

    progress = stage.progress
    if progress is None:
        return "-"
    percent = 100 * progress.done // max(1, progress.total)
    return (
        f"{percent} % ({progress.done}/{progress.total} {progress.unit}, {progress.rate:.4g}/s, "
        f"{format_seconds(progress.eta_seconds)} to go)"
    )
