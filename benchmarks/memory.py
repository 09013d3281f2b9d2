"""A control group with a memory limit, for a process that has to live within it.

The limit counts the process's own memory and the pages of files that it has read, so features are
dropped from the page cache first: what was read before would be free otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_V1: Final = Path("/sys/fs/cgroup/memory")
_V2: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class LimitedGroup:
    """A control group that a process can be started in."""

    folder: Path
    limit_file: str
    peak_file: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """Words before a command that put it into the group."""
        return ("sh", "-c", f'echo $$ > {self.folder}/cgroup.procs; exec "$@"', "sh")

    def read_peak_bytes(self) -> int:
        """Return the most that the group held, cached pages of files included."""
        return int((self.folder / self.peak_file).read_text(encoding="ascii"))


def find_obstacle() -> str:
    """Return why no group can be made here, or nothing."""
    if os.geteuid():
        return "needs root, to make a control group"
    if not ((_V1 / "memory.limit_in_bytes").exists() or (_V2 / "cgroup.controllers").exists()):
        return "needs a memory control group, version 1 or 2"
    return ""


@contextmanager
def limit_memory(limit_bytes: int) -> Iterator[LimitedGroup]:
    """Make a group with a limit, without swap; it is removed at the end."""
    name = f"clusterfit-bench-{os.getpid()}"
    if (_V1 / "memory.limit_in_bytes").exists():
        group = LimitedGroup(_V1 / name, "memory.limit_in_bytes", "memory.max_usage_in_bytes")
    else:
        (_V2 / "cgroup.subtree_control").write_text("+memory", encoding="ascii")
        group = LimitedGroup(_V2 / name, "memory.max", "memory.peak")
    group.folder.mkdir()
    try:
        (group.folder / group.limit_file).write_text(str(limit_bytes), encoding="ascii")
        yield group
    finally:
        group.folder.rmdir()


def drop_cached_pages(folder: Path) -> None:
    """Let the kernel forget the pages of a folder's files."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
