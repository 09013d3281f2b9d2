"""Processes, as /proc shows them. A pid with its start time names a process for ever."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.cluster.commands import ClusterError

PROC = Path("/proc")


def spawn(command: Sequence[str | Path], log: Path) -> int:
    """Start a process that outlives this one, in a session of its own, and return its pid."""
    argv = [str(part) for part in command]
    program = shutil.which(argv[0])
    if program is None:
        raise ClusterError(f"{argv[0]}: not found")
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawn(
        program,
        argv,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def only_child(pid: int) -> int:
    """The child of a process that has one, 0 while it has none."""
    try:
        children = (PROC / f"{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        raise ClusterError(f"process {pid} ended before it had started another") from None
    return int(children[0]) if children else 0


def start_time(pid: int, proc: Path = PROC) -> int:
    """When a process started, in clock ticks since boot; 0 if it has ended.

    A process is called a zombie once its first thread has ended. While others of its threads have
    not, its files are open, and its ports taken.
    """
    try:
        after_name = (proc / f"{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    state, num_threads = after_name[0], int(after_name[17])
    return 0 if state in "ZX" and num_threads <= 1 else int(after_name[19])


def is_alive(pid: int, started: int) -> bool:
    """Whether the process of that pid is still the one that started then."""
    return started != 0 and start_time(pid) == started


def name_process(pid: int) -> dict[str, int]:
    """Name a process for good."""
    return {"pid": pid, "start_time": start_time(pid)}


def this_process() -> dict[str, int]:
    """Name this process for good."""
    return name_process(os.getpid())


def pids() -> Iterator[int]:
    """Every process on this computer."""
    return (int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())


def command_line(pid: int) -> list[bytes]:
    """A process' arguments; none for a kernel thread, a zombie, or a process that is gone."""
    try:
        return (PROC / f"{pid}/cmdline").read_bytes().split(b"\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []
