"""One live writer for each run directory.

owner.json names the writer; the file's modification time is its heartbeat, so that beating never
rewrites content and cannot undo a successor's claim. Times are the file system's own: both ends
of every comparison come from the folder's server, not from two hosts' clocks.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from clusterfit.artifacts.files import PARTIAL_SUFFIX, write_file
from clusterfit.artifacts.layout import RunDirectory
from clusterfit.artifacts.outage import check_storage
from clusterfit.errors import WriteError

HEARTBEAT_SECONDS: Final = 5.0
STALE_SECONDS: Final = 60.0
"""A writer whose heartbeat is older than this is dead: twelve beats missed."""
_POLL_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Owner:
    """Who writes a run directory."""

    token: str
    """Unique for each claim."""
    submission: str
    """The rendezvous id: a pod that was recreated within a submission succeeds itself."""
    stage: str
    host: str
    pid_namespace: str
    """Pods on a node's network share its host name, but cannot see each other's processes."""
    pid: int
    pid_started: str
    """Start time of the process as the kernel counts it, so that a reused pid is not mistaken."""
    since: str


class Writer:
    """The right to write a run directory, held until released or taken over."""

    def __init__(self, path: Path, token: str) -> None:
        """Continue a claim that `claim` made; ranks get the token from their entry."""
        self._path = path
        self.token = token
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def check(self) -> None:
        """Raise WriteError when another writer has taken the directory over."""
        owner = _read_owner(self._path)
        if owner is None or owner.token != self.token:
            who = f"pid {owner.pid} on {owner.host}" if owner else "somebody, and released since"
            raise WriteError(
                f"{self._path.parent}: taken over by {who}; this process must not write any more"
            )

    def start_heartbeat(self) -> None:
        """Beat from a thread until `release`."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    @contextmanager
    def heartbeat_paused(self) -> Iterator[None]:
        """Be without a thread for a moment: a process that has some must not be forked."""
        self._stop_heartbeat()
        try:
            yield
        finally:
            self.start_heartbeat()

    def release(self) -> None:
        """Stop beating and remove owner.json where it is still ours."""
        self._stop_heartbeat()
        with contextlib.suppress(OSError):
            owner = _read_owner(self._path)
            if owner is not None and owner.token == self.token:
                self._path.unlink()

    def _stop_heartbeat(self) -> None:
        self._stop.set()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):
                owner = _read_owner(self._path)
                if owner is None or owner.token != self.token:
                    return
                os.utime(self._path)


class _OccupiedError(WriteError):
    """Another writer lives, or has until just now."""

    def __init__(self, who: str, *, is_visible: bool) -> None:
        super().__init__(f"{who}; wait for it, stop it, or give this run another name")
        self.who = who
        self.is_visible = is_visible
        """Whether it is a process that was seen to live."""


def claim(
    run: RunDirectory, stage: str, submission: str, say: Callable[[str], None] | None = None
) -> Writer:
    """Become the writer of a run directory.

    A dead writer is succeeded: one of the same submission, one whose process on this host is gone,
    or one whose heartbeat is older than `STALE_SECONDS`.

    Args:
        run: The run directory.
        stage: What for.
        submission: The rendezvous id; empty: none that another claim could share.
        say: Where given, a writer that cannot be seen, as in another pod, is waited for as long as
            one may seem to live that was killed just now, or is about to end; `say` is told.

    Raises:
        WriteError: when another writer lives, naming it, or the folder cannot be written.
        RetryableError: when the storage failed.
    """
    deadline = time.monotonic() + STALE_SECONDS + HEARTBEAT_SECONDS
    has_said = False
    while True:
        try:
            return _claim_now(run, stage, submission)
        except _OccupiedError as error:
            if say is None or error.is_visible or time.monotonic() > deadline:
                raise
            if not has_said:
                say(f"{error.who}; waiting up to {STALE_SECONDS:g} s for it to end")
            has_said = True
        time.sleep(_POLL_SECONDS)


def _claim_now(run: RunDirectory, stage: str, submission: str) -> Writer:
    path = run.owner_file
    owner = Owner(
        token=uuid.uuid4().hex,
        submission=submission,
        stage=stage,
        host=socket.gethostname(),
        pid_namespace=_pid_namespace(),
        pid=os.getpid(),
        pid_started=_process_start(os.getpid()) or "",
        since=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    content = (json.dumps(asdict(owner), indent=1) + "\n").encode()
    proposal = path.with_name(f".owner.{owner.token}{PARTIAL_SUFFIX}")
    try:
        write_file(proposal, content)
    except WriteError as error:
        why = error.__cause__.strerror if isinstance(error.__cause__, OSError) else error
        raise WriteError(f"{run.root}: the run directory cannot be written: {why}") from error
    try:
        try:
            os.link(proposal, path)  # fails where somebody is there: of two, exactly one wins
        except FileExistsError:
            _check_succeedable(path, proposal, submission)
            proposal.replace(path)
    except OSError as error:
        check_storage(path, error)
        raise WriteError(f"{path}: cannot claim the run: {error.strerror or error}") from error
    finally:
        proposal.unlink(missing_ok=True)
    writer = Writer(path, owner.token)
    writer.check()
    return writer


def _check_succeedable(path: Path, proposal: Path, submission: str) -> None:
    owner = _read_owner(path)
    if owner is None or (submission and owner.submission == submission):
        return
    try:
        age_seconds = proposal.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return  # released just now
    if age_seconds > STALE_SECONDS:
        return
    is_visible = (owner.host, owner.pid_namespace) == (socket.gethostname(), _pid_namespace())
    if is_visible and _process_start(owner.pid) != owner.pid_started:
        return
    raise _OccupiedError(
        f"{path.parent}: pid {owner.pid} on {owner.host} has been writing it since {owner.since} "
        f"(stage {owner.stage}, last heartbeat {max(age_seconds, 0):.0f} s ago)",
        is_visible=is_visible,
    )


def _read_owner(path: Path) -> Owner | None:
    try:
        return Owner(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return None  # not ours or damaged: nobody who could be asked


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""  # macOS knows but one


def _process_start(pid: int) -> str | None:
    """Return a live process' start as the kernel tells it, None where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
        return _process_start_without_proc(pid)
    except ProcessLookupError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]  # 22nd of proc(5): starttime


def _process_start_without_proc(pid: int) -> str | None:
    # macOS has no /proc: whether the pid lives is all that can be asked cheaply.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "alive"
