"""`clusterfit logs`: what the ranks of a run say, now and as it goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from clusterfit.cli.cluster import Context, Kubeconfig, Namespace, RunName, open_api, say
from clusterfit.errors import ConfigError

if TYPE_CHECKING:
    from clusterfit.launch.access import Access
    from clusterfit.launch.api import Api
    from clusterfit.launch.jobs import JobState
    from clusterfit.launch.logs import Line, Wanted
    from clusterfit.launch.plan import PlannedStage, Release

_INTERRUPTED = 130
_REMOVED = 3
"""As for a run that does not exist."""


def logs(
    run: RunName,
    stage: Annotated[
        str,
        typer.Argument(metavar="[STAGE]", help="By default the stage at work, or the last one."),
    ] = "",
    rank: Annotated[
        int, typer.Option("--rank", min=0, help="Show this rank; by default the main one, 0.")
    ] = 0,
    all_ranks: Annotated[bool, typer.Option("--all-ranks", help="Show every rank.")] = False,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Stay, through restarts, until the run is over.")
    ] = False,
    since: Annotated[
        int, typer.Option("--since", min=0, help="Only the newest seconds; 0: all.")
    ] = 0,
    tail: Annotated[
        int, typer.Option("--tail", min=0, help="Only so many newest lines of each pod; 0: all.")
    ] = 0,
    previous: Annotated[
        bool, typer.Option("--previous", help="Show the attempt before the newest one.")
    ] = False,
    namespace: Namespace = "",
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Show what a stage's ranks say: from its pods, or from the copies that outlive them."""
    from clusterfit.launch.logs import Wanted, choose_stage, find_stage, read_previous, read_stage
    from clusterfit.launch.plan import find_releases

    if previous and follow:
        raise ConfigError("--previous: an earlier attempt is over, so --follow has no effect on it")
    if all_ranks and rank:
        raise ConfigError("--rank and --all-ranks exclude each other; give one")
    api, access = open_api(namespace, context, kubeconfig)
    releases = find_releases(api, run)
    wanted = Wanted(() if all_ranks else (rank,), tail, since)
    if follow:
        chosen = [find_stage(releases, stage)] if stage else _from_the_present(api, releases)
        try:
            raise typer.Exit(follow_stages(api, chosen, wanted))
        except KeyboardInterrupt:
            raise typer.Exit(_detach(access, releases)) from None
    release, planned = find_stage(releases, stage) if stage else choose_stage(api, releases)
    read = read_previous if previous else read_stage
    for line in read(api, release, planned, wanted, say):
        print(_prefix(line, planned, wanted), flush=True)


def follow_run(api: Api, access: Access, run: str, name: str) -> int:
    """Show a release's log from the start and return its result; Ctrl-C only detaches.

    Raises:
        NotFoundError: The release is not there: somebody has removed it by now.
    """
    from clusterfit.launch.failures import NotFoundError
    from clusterfit.launch.logs import Wanted
    from clusterfit.launch.plan import find_releases
    from clusterfit.launch.wait import wait_for_run

    releases = [item for item in find_releases(api, run) if item.plan.release == name]
    if not releases:
        raise NotFoundError(f"release {name} of run {run}: not found in namespace {api.namespace}")
    stages = [(release, stage) for release in releases for stage in release.plan.stages]
    result: Future[int] = Future()

    def wait() -> None:
        try:
            result.set_result(wait_for_run(api, releases, _discard))
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            result.set_exception(error)

    # In client mode this thread is what releases the later stages. It ends with the process.
    threading.Thread(target=wait, daemon=True).start()
    is_releaser = any(release.plan.sequencing == "client" for release in releases)
    try:
        follow_stages(api, stages, Wanted(), result if is_releaser else None)
        return result.result()
    except KeyboardInterrupt:
        return _detach(access, releases)


def follow_stages(
    api: Api,
    stages: list[tuple[Release, PlannedStage]],
    wanted: Wanted,
    releaser: Future[int] | None = None,
) -> int:
    """Show the stages one after the other; return 0, or the code of the first that did not succeed.

    1: it has failed, will not start, or was stopped for good; 3: it was removed. What ends with an
    error of its own (it is refused, or waits for a stage that was removed) raises it.
    """
    from clusterfit.launch.jobs import Phase
    from clusterfit.launch.log_follow import follow_stage
    from clusterfit.launch.patience import persist
    from clusterfit.launch.progress import StageDisplay

    with StageDisplay() as view:
        for position, (release, stage) in enumerate(stages):
            lacking = [rank for rank in wanted.ranks if rank >= stage.world_size]
            if position and lacking:
                say(f"{stage.stage}: has no rank {lacking[0]}, but 0 to {stage.world_size - 1}")
                continue
            view.begin(stage.stage)
            lines = follow_stage(api, release, stage, wanted, say, releaser)
            _show(lines, stage, wanted, view.show)
            state = persist(partial(_look, api, release, stage), say)
            code = {Phase.SUCCEEDED: 0, Phase.MISSING: _REMOVED}.get(state.phase, 1)
            view.end(code)
            if state.is_given_up:
                say(f"{stage.stage}: stopped by {state.stopped_by}: {state.message}")
            if state.phase is Phase.MISSING:
                say(f"{stage.stage}: {stage.kind} {stage.name} was removed")
            if code:
                return code
    return 0


def _look(api: Api, release: Release, stage: PlannedStage) -> JobState:
    from clusterfit.launch.jobs import see_job

    return see_job(api, release.plan, stage, api.find(stage.resource, stage.name))


def _detach(access: Access, releases: Iterable[Release]) -> int:
    """Say how to come back, and who takes the run on meanwhile."""
    release = next(iter(releases))
    run, options = release.plan.run, access.as_options()
    come_back = f"clusterfit logs {run}{options} --follow"
    stop = f"stop it: clusterfit cancel {run}{options}"
    if release.plan.sequencing == "client":
        say(
            f"\ndetached; what runs of {run} goes on, but nothing starts its later stages until "
            f"somebody waits: clusterfit wait {run}{options}   log: {come_back}   {stop}"
        )
    else:
        say(f"\ndetached; {run} goes on. Come back: {come_back}   {stop}")
    return _INTERRUPTED


def _from_the_present(api: Api, releases: list[Release]) -> list[tuple[Release, PlannedStage]]:
    """Return the stage at work and those after it."""
    from clusterfit.launch.logs import choose_stage

    present = choose_stage(api, releases)
    stages = [(release, stage) for release in releases for stage in release.plan.stages]
    names = [stage.name for _, stage in stages]
    return stages[names.index(present[1].name) :]


def _show(
    lines: Iterable[Line], stage: PlannedStage, wanted: Wanted, show: Callable[[str], None]
) -> None:
    for line in lines:
        show(_prefix(line, stage, wanted))


def _prefix(line: Line, stage: PlannedStage, wanted: Wanted) -> str:
    """Say whose line it is where several pods speak and the line does not say so itself."""
    from clusterfit.logline import parse_line

    if wanted.ranks or stage.nodes == 1 or "rank" in (parse_line(line.text) or {}):
        return line.text
    return f"[node {line.node}] {line.text}"


def _discard(_text: str) -> None:
    pass
