"""Follow what a stage's ranks say until it is over, across restarts of pods and of the server."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

from clusterfit.launch.api import PODS, Api, LogBrokenError
from clusterfit.launch.failures import ClusterError
from clusterfit.launch.jobs import Phase, see_job
from clusterfit.launch.log_seen import Seen
from clusterfit.launch.log_stream import Cursor, read_lines
from clusterfit.launch.logs import (
    Line,
    Say,
    Wanted,
    explain_never,
    keep_newest,
    print_copies,
    read_stage,
)
from clusterfit.launch.manifests import Manifest
from clusterfit.launch.patience import Forbearance, persist
from clusterfit.launch.plan import PlannedStage, Release
from clusterfit.launch.pods import (
    explain_not_started,
    has_started,
    pick_newest,
    read_node_rank,
    select_pods,
)
from clusterfit.launch.sequence import INSTALL_SECONDS, Absences, RemovedError, look_closely
from clusterfit.launch.status import explain_stage

_POLL_SECONDS: Final = 1.0
_PATIENCE_SECONDS: Final = 5.0
"""A pod that comes within this time needs no explanation."""
_ASK_SECONDS: Final = 10.0
"""Between two questions why there is no pod: each takes several requests."""
_UNREAD_SECONDS: Final = 180.0
"""How long a stage may be over and a pod's log unread: ending takes a pod up to two minutes."""
_TELLING: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class _Glance:
    """What is seen of a stage at one moment."""

    is_over: bool
    pods: list[Manifest]
    """The newest of each node, read after that."""


@dataclass(slots=True)
class _Follow:
    """What the readers of a stage's pods share."""

    api: Api
    release: Release
    stage: PlannedStage
    wanted: Wanted
    say: Say
    releaser: Future[int] | None
    lines: queue.Queue[Line | ClusterError | None] = field(
        default_factory=lambda: queue.Queue(10_000)
    )
    """What was said; why a reader has given up; None from each reader that has ended."""
    stop: threading.Event = field(default_factory=threading.Event)
    absences: Absences = field(default_factory=lambda: Absences(INSTALL_SECONDS))
    said: str = ""
    absent_since: dict[int, float] = field(default_factory=dict)
    """By node, where it has no pod."""
    looking: threading.Lock = field(default_factory=threading.Lock)
    looked_at: float = -math.inf
    glance: _Glance = field(default_factory=lambda: _Glance(is_over=False, pods=[]))
    asking: threading.Lock = field(default_factory=threading.Lock)
    asked_at: float = -math.inf
    cause: str = ""
    """Why there was no pod when somebody asked last."""

    def look(self) -> _Glance:
        """Look at the stage, once a second for all of its readers: there may be hundreds."""
        with self.looking:
            if time.monotonic() - self.looked_at >= _POLL_SECONDS:
                # Asked before the pods: what is over now has nothing more to say after it.
                is_over = _is_over(self)
                pods = pick_newest(select_pods(self.api, self.release.plan.run, self.stage))
                self.glance, self.looked_at = _Glance(is_over, pods), time.monotonic()
            return self.glance

    def tell(self, remark: str) -> None:
        """Say something to a person; what all pods have in common is said once."""
        with _TELLING:
            if remark != self.said:
                self.say(remark)
            self.said = remark


def follow_stage(
    api: Api,
    release: Release,
    stage: PlannedStage,
    wanted: Wanted,
    say: Say,
    releaser: Future[int] | None = None,
) -> Iterator[Line]:
    """Yield what is said until the stage is over, across restarts of pods and of the server.

    Lines of one pod keep their order; those of several come as they arrive.

    Args:
        api: The namespace.
        release: Whose stage it is.
        stage: Which one.
        wanted: Which lines.
        say: Is told what a person should know meanwhile.
        releaser: Whoever releases held stages, where that is this process: a held stage is not
            waited for once it has ended with an error, which is raised.

    Raises:
        NotPermittedError: The server refuses to show the pods or their logs, and goes on refusing.
        DeniedError: Admission refuses the releaser that a stage is released, and goes on refusing.
        RemovedError: The stage waits for one that was removed before it had ended.
    """
    shared = _Follow(api, release, stage, wanted, say, releaser)
    if persist(lambda: _is_over(shared), shared.tell):
        yield from read_stage(api, release, stage, wanted, shared.tell)
        return
    threads = [
        threading.Thread(target=_follow_node, args=(shared, node), daemon=True)
        for node in wanted.find_nodes(stage)
    ]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            line = shared.lines.get()
            if line is None:
                running -= 1
            elif isinstance(line, ClusterError):
                raise line
            else:
                yield line
    finally:
        shared.stop.set()


def _follow_node(shared: _Follow, node: int) -> None:
    """Read one pod's log, and its successors', until the stage is over."""
    cursor, seen = Cursor(shared.wanted.since_seconds, shared.wanted.tail), Seen()
    said = ""
    forbearance = Forbearance(was_allowed=True)
    over_since: float | None = None
    try:
        while not shared.stop.is_set():
            is_over, is_read, why = False, False, ""
            try:
                glance = shared.look()
                is_over = glance.is_over
                is_read, why = _read_node(shared, node, glance.pods, cursor, seen)
                forbearance.allow()
            except LogBrokenError:
                forbearance.allow()
            except ClusterError as error:
                if isinstance(error, RemovedError) or not forbearance.bears(error):
                    shared.lines.put(error)
                    return
                why = str(error)
            now = time.monotonic()
            over_since = (over_since or now) if is_over else None
            is_overdue = over_since is not None and now - over_since > _UNREAD_SECONDS
            is_given_up = is_overdue and not is_read
            if is_over and (is_read or is_given_up):
                if why or is_given_up:
                    _show_missing(shared, node, seen)  # its pod was removed before it was read
                if is_given_up:
                    what = f"the log of node {node} of {shared.stage.stage} is not read to its end"
                    shared.tell(f"{what}, and the stage is over: {why or 'it breaks off'}")
                return
            if why and why != said:
                shared.tell(why)
            said = why
            shared.stop.wait(_POLL_SECONDS)
    finally:
        shared.lines.put(None)


def _read_node(
    shared: _Follow, node: int, pods: list[Manifest], cursor: Cursor, seen: Seen
) -> tuple[bool, str]:
    """Read what one pod has to say now.

    Returns:
        Whether that was all that it says for now, and why there is nothing to read, if so.

    Raises:
        LogBrokenError: It was not all.
    """
    pod = next((item for item in pods if read_node_rank(item) == node), None)
    if pod is None:
        return True, _explain_absence(shared, node)
    shared.absent_since.pop(node, None)
    name = pod["metadata"]["name"]
    if not has_started(pod):
        waiting = f"waiting for {name} to start"
        return True, "; ".join(filter(None, (waiting, *explain_not_started(pod))))
    uid = pod["metadata"]["uid"]
    present = shared.api.find(PODS, name)
    if present is None or present["metadata"]["uid"] != uid:
        return False, ""  # it was made anew since the look: logs are read by name
    if cursor.uid and cursor.uid != uid:
        _show_missing(shared, node, seen)
        # A Job's pods have random names: nobody knows this one's.
        again = "was started again" if shared.stage.pods else "was started in place of one before"
        shared.tell(f"{name} {again}; its log goes on")
    is_other = cursor.uid != uid
    cursor.turn_to(uid)
    if is_other:
        # Whoever asks for the newest lines only does not miss those before them.
        is_part = bool(cursor.tail or cursor.since_seconds)
        # Without its letter a whole second sorts before the moments within it.
        seen.begin("" if is_part else pod["metadata"]["creationTimestamp"].rstrip("Z"))
    for line in _read_on(shared, node, name, cursor):
        if seen.take(line.text):
            shared.lines.put(line)
        if shared.stop.is_set():
            break
    return True, ""


def _explain_absence(shared: _Follow, node: int) -> str:
    """Say that there is no pod and, where that lasts, why."""
    now = time.monotonic()
    waiting = f"waiting for a pod of {shared.stage.stage}"
    if now - shared.absent_since.setdefault(node, now) < _PATIENCE_SECONDS:
        return waiting
    with shared.asking:
        if now - shared.asked_at >= _ASK_SECONDS:
            shared.asked_at = now
            cause = explain_stage(shared.api, shared.release.plan, shared.stage)
            shared.cause = "; ".join(filter(None, (cause.text, cause.advice)))
        return f"{waiting}: {shared.cause}" if shared.cause else waiting


def _read_on(shared: _Follow, node: int, pod: str, cursor: Cursor) -> Iterator[Line]:
    """Yield the wanted lines of a pod from the cursor on, until its log ends."""

    def read(*, follow: bool) -> Iterator[Line]:
        for text in read_lines(shared.api, pod, cursor, follow=follow):
            if shared.wanted.takes(text):
                yield Line(node, text)

    if cursor.tail and not cursor.has_begun:
        yield from keep_newest(read(follow=False), cursor.tail)
    yield from read(follow=True)


def _show_missing(shared: _Follow, node: int, seen: Seen) -> None:
    """Show what a pod said between what was read of it and its end, from the copies."""
    stage = shared.stage
    own = range(node * stage.processes_per_node, (node + 1) * stage.processes_per_node)
    ranks = [rank for rank in own if not shared.wanted.ranks or rank in shared.wanted.ranks]
    if not seen.since:
        return  # nothing was read of it, so nothing says which of the copies are its own
    if shared.api.find(stage.resource, stage.name) is None:
        return  # removed, and whoever removed it waits until no pod of the run is left
    try:
        since = [f"--since={seen.find_start(ranks)}"]
        copies = print_copies(shared.api, shared.release, stage, ranks, since, shared.tell)
    except ClusterError as error:
        shared.tell(f"the last lines of a pod of {stage.stage} may be missing here: {error}")
    else:
        for line in seen.find_missing(copies or ()):
            shared.lines.put(Line(node, line))


def _is_over(shared: _Follow) -> bool:
    """Whether nothing more will be said; a stage that will not start says why."""
    plan, stage = shared.release.plan, shared.stage
    job = shared.api.find(stage.resource, stage.name)
    state = see_job(shared.api, plan, stage, job)
    if state.phase is Phase.HELD:
        views = list(look_closely(shared.api, plan))
        shared.absences.check(views, shared.api.now())
        why = explain_never(shared.api, plan, views, stage)
        if why:
            shared.tell(why)
        elif shared.releaser is not None and shared.releaser.done():
            shared.releaser.result()
        return bool(why)
    return state.phase.is_final or state.phase is Phase.MISSING or state.is_given_up
