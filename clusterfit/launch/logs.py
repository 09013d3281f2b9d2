"""What a stage's ranks say: from their pods, or from the copies on the claim."""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from clusterfit.launch.api import Api
from clusterfit.launch.failures import ClusterError, NotFoundError, NotPermittedError
from clusterfit.launch.files_pod import run_files_pod, wait_until_ended
from clusterfit.launch.jobs import Phase, read_state, see_job
from clusterfit.launch.log_copies import EXIT_NONE, unpack_lines
from clusterfit.launch.log_stream import Cursor, read_lines
from clusterfit.launch.manifests import Manifest
from clusterfit.launch.plan import Plan, PlannedStage, Release
from clusterfit.launch.pods import (
    explain_not_started,
    has_started,
    pick_newest,
    read_node_rank,
    select_pods,
)
from clusterfit.launch.sequence import StageView, find_failed, find_given_up, look_closely
from clusterfit.launch.status import explain_stage
from clusterfit.logline import parse_line

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines of a stage are asked for."""

    ranks: tuple[int, ...] = (0,)
    """Empty: all of them."""
    tail: int = 0
    """Of these ranks' lines the newest of each pod; 0: all."""
    since_seconds: int = 0
    """Lines of the newest seconds; 0: all."""

    def find_nodes(self, stage: PlannedStage) -> list[int]:
        """Return the pods, by node rank, that the ranks are in.

        Raises:
            NotFoundError: The stage has no such rank.
        """
        beyond = [rank for rank in self.ranks if rank >= stage.world_size]
        if beyond:
            raise NotFoundError(
                f"rank {beyond[0]}: stage {stage.stage} has ranks 0 to {stage.world_size - 1}"
            )
        if not self.ranks:
            return list(range(stage.nodes))
        return sorted({rank // stage.processes_per_node for rank in self.ranks})

    def takes(self, line: str) -> bool:
        """Whether a line is of one of the ranks; what no rank said belongs to the pod."""
        rank = (parse_line(line) or {}).get("rank", "")
        return not rank.isdigit() or not self.ranks or int(rank) in self.ranks


@dataclass(frozen=True, slots=True)
class Line:
    """A line, and the pod that it is from."""

    node: int
    text: str


def choose_stage(api: Api, releases: Sequence[Release]) -> tuple[Release, PlannedStage]:
    """Return the stage that a reader means who names none: the one at work, else the last one.

    Others may follow one that has failed: a run goes on with weights from a path, for example.
    """
    pairs = [(release, stage) for release in releases for stage in release.plan.stages]
    chosen = pairs[0]
    for release, stage in pairs:
        state = see_job(api, release.plan, stage, api.find(stage.resource, stage.name))
        if state.phase in (Phase.HELD, Phase.MISSING):
            continue
        chosen = release, stage
        if not state.phase.is_final and not state.is_given_up:
            break
    return chosen


def find_stage(releases: Sequence[Release], name: str) -> tuple[Release, PlannedStage]:
    """Return a stage of a run by its name.

    Raises:
        NotFoundError: No release of the run has it.
    """
    pairs = [(release, stage) for release in releases for stage in release.plan.stages]
    for release, stage in pairs:
        if stage.stage == name:
            return release, stage
    there = ", ".join(stage.stage for _, stage in pairs)
    raise NotFoundError(f"stage {name}: not submitted for this run; it has {there}")


def read_stage(
    api: Api, release: Release, stage: PlannedStage, wanted: Wanted, say: Say
) -> Iterator[Line]:
    """Yield what there is now: the pods' logs, or the copies where no pod is left.

    Raises:
        ClusterError: Of what was asked for some could not be read; all else has been yielded.
    """
    nodes = wanted.find_nodes(stage)
    pods = pick_newest(select_pods(api, release.plan.run, stage))
    pods = [pod for pod in pods if read_node_rank(pod) in nodes]
    if not pods:
        job = api.find(stage.resource, stage.name)
        state = read_state(release.plan, stage, job)
        if state.phase in (Phase.STARTING, Phase.RUNNING):
            # The copies are of attempts before this one.
            cause = explain_stage(api, release.plan, stage)
            why = "; ".join(filter(None, (cause.text, cause.advice)))
            say(f"{stage.stage} waits for a pod: {why or state.phase.value}")
            return
        if state.phase in (Phase.HELD, Phase.QUEUED):
            why = f"{stage.stage} has not started: {state.phase.value}"
            views = list(look_closely(api, release.plan))
            say(explain_never(api, release.plan, views, stage) or why)
            return
        say("no pods are left; reading the copies on the claim")
        yield from read_copies(api, release, stage, wanted, say)
        return
    failures: list[ClusterError] = []
    yield from keep_newest(_read_pods(api, pods, wanted, say, failures), wanted.tail)
    gone = sorted(set(nodes) - {read_node_rank(pod) for pod in pods})
    if gone:
        yield from _read_gone(api, release, stage, wanted, gone, say)
    if failures:
        for failure in failures[:-1]:
            say(str(failure))
        raise failures[-1]


def _read_gone(
    api: Api, release: Release, stage: PlannedStage, wanted: Wanted, nodes: list[int], say: Say
) -> Iterator[Line]:
    """Yield what the nodes without a pod have said, where none will come any more."""
    which = f"node {', '.join(map(str, nodes))}"
    job = api.find(stage.resource, stage.name)
    if read_state(release.plan, stage, job).phase in (Phase.STARTING, Phase.RUNNING):
        say(f"{stage.stage} waits for the pod of {which}")
        return
    size = stage.processes_per_node
    own = [rank for node in nodes for rank in range(node * size, (node + 1) * size)]
    ranks = tuple(rank for rank in own if not wanted.ranks or rank in wanted.ranks)
    say(f"the pod of {which} is gone; reading its copies on the claim")
    try:
        yield from read_copies(api, release, stage, replace(wanted, ranks=ranks), say)
    except NotFoundError:
        say(f"of {which} nothing is kept on the claim")


def read_previous(
    api: Api, release: Release, stage: PlannedStage, wanted: Wanted, say: Say
) -> Iterator[Line]:
    """Yield the copies of the attempt before the present one.

    There are copies of an attempt as soon as its ranks begin; until then the newest ones are of
    the attempt before.

    Raises:
        NotFoundError: There are none.
    """
    say("reading an earlier attempt from the copies on the claim")
    back = int(_has_begun(api, release, stage))
    try:
        yield from read_copies(api, release, stage, wanted, say, back)
    except NotFoundError:
        raise NotFoundError(
            f"run {release.plan.run}: no earlier attempt of stage {stage.stage} is kept on the "
            "claim"
        ) from None


def _has_begun(api: Api, release: Release, stage: PlannedStage) -> bool:
    """Whether ranks of the present attempt have begun; so they have where it is over."""
    firsts = [
        pod
        for pod in pick_newest(select_pods(api, release.plan.run, stage))
        if read_node_rank(pod) == 0
    ]
    if not firsts:
        job = api.find(stage.resource, stage.name)
        phase = read_state(release.plan, stage, job).phase
        return phase not in (Phase.STARTING, Phase.QUEUED, Phase.HELD)
    if not has_started(firsts[0]):
        return False
    try:
        said = read_lines(api, firsts[0]["metadata"]["name"], Cursor(), follow=False)
        return any("rank" in (parse_line(line) or {}) for line in said)
    except ClusterError:
        return True


def keep_newest(lines: Iterable[Line], number: int) -> Iterator[Line]:
    """Yield each pod's newest lines in the order that they came in; all, at once, where 0."""
    if not number:
        yield from lines
        return
    newest: dict[int, deque[tuple[int, Line]]] = defaultdict(lambda: deque(maxlen=number))
    for position, line in enumerate(lines):
        newest[line.node].append((position, line))
    for _, line in heapq.merge(*newest.values()):
        yield line


def _read_pods(
    api: Api, pods: Iterable[Manifest], wanted: Wanted, say: Say, failures: list[ClusterError]
) -> Iterator[Line]:
    """Yield the lines of all pods whose logs can be read, and note why others cannot."""
    for pod in pods:
        name = pod["metadata"]["name"]
        if not has_started(pod):
            say("; ".join(filter(None, (f"{name} has not started", *explain_not_started(pod)))))
            continue
        try:
            for line in read_lines(api, name, Cursor(wanted.since_seconds), follow=False):
                if wanted.takes(line):
                    yield Line(read_node_rank(pod), line)
        except NotPermittedError as error:
            failures.append(error)
            return  # it is the same for all of them
        except ClusterError as error:
            failures.append(error)


def read_copies(
    api: Api, release: Release, stage: PlannedStage, wanted: Wanted, say: Say, back: int = 0
) -> Iterator[Line]:
    """Yield the lines that the ranks have copied to the claim, of an attempt counted from the end.

    Raises:
        NotFoundError: There are none. Of a rank that was there and said nothing there is one.
    """
    options = [f"--back={back}", f"--seconds={wanted.since_seconds}"]
    texts = print_copies(api, release, stage, wanted.ranks, options, say)
    if texts is None:
        raise NotFoundError(
            f"run {release.plan.run}: nothing of stage {stage.stage} is kept on the claim"
        )
    if not texts:
        ranks = ", ".join(map(str, wanted.ranks))
        when = f" in the newest {wanted.since_seconds} s" if wanted.since_seconds else ""
        say(f"rank {ranks} said nothing{when}" if ranks else f"no rank said anything{when}")
    lines = (Line(_find_node(stage, text), text) for text in texts)
    yield from keep_newest(lines, wanted.tail)


def _find_node(stage: PlannedStage, line: str) -> int:
    rank = (parse_line(line) or {}).get("rank", "0")
    return int(rank) // stage.processes_per_node if rank.isdigit() else 0


def print_copies(
    api: Api,
    release: Release,
    stage: PlannedStage,
    ranks: Iterable[int],
    options: list[str],
    say: Say,
) -> list[str] | None:
    """Return what a pod with the claim prints of the copies; None where there are none.

    Raises:
        ClusterError: The pod failed, or its own log has not all that it printed.
    """
    run = release.plan.run
    folder = f"/storage/{run}/logs/{stage.stage}"
    command = ["python", "-m", "clusterfit.launch.log_copies", folder, *options]
    command += [f"--rank={rank}" for rank in ranks]
    with run_files_pod(api, release.files_pod, run, command, say) as pod:
        exit_code = wait_until_ended(api, pod)
        if exit_code == EXIT_NONE:
            return None
        if exit_code:
            raise ClusterError(f"pod {pod}: {' '.join(api.read_log(pod, 5))}")
        try:
            return unpack_lines(read_lines(api, pod, Cursor(), follow=False))
        except ValueError:
            raise ClusterError(
                f"pod {pod}: its node has not kept all that it printed; `clusterfit get "
                f"storage:{run}/logs DIR --run {run}{api.options}` brings the copies themselves"
            ) from None


def explain_never(api: Api, plan: Plan, views: Sequence[StageView], stage: PlannedStage) -> str:
    """Return why a held stage will not start by itself; nothing where it may."""
    failed, given_up = find_failed(views), find_given_up(views)
    if failed is not None:
        return f"{stage.stage} will not start: {failed.stage} failed"
    if given_up is not None:
        return (
            f"{stage.stage} will not start: {given_up.stage} was stopped, and goes on only after "
            f"`clusterfit resume {plan.run}{api.options}`"
        )
    return ""
