"""The one cgroup below which all pods live: made for a cluster, removed with it."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from tests.cluster.commands import ClusterError

NAME = "clusterfit"

# A cgroup weighs as much as one process beside it, and all pods together are one cgroup. On a busy
# computer they would starve: this is the weight of six.
WEIGHTS = {"cpu.shares": "6144", "cpu.weight": "600"}


def roots() -> list[Path]:
    """The mounted hierarchies: one on cgroup version 2, one per group of controllers on 1."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, source = line.partition(" - ")
        if source.split()[0] in ("cgroup", "cgroup2"):
            found.append(Path(mount.split()[4]))
    return found


def create() -> None:
    """Make our cgroup in every hierarchy; the kubelet refuses to start without it."""
    for root in roots():
        own = root / NAME
        own.mkdir(exist_ok=True)
        for name, value in WEIGHTS.items():  # of cgroup version 1, and of version 2
            if (own / name).exists():
                (own / name).write_text(value)


def remove() -> None:
    """Remove it, deepest folder first; one that still holds a dying process is tried again."""
    deadline = time.monotonic() + 30
    for root in roots():
        own = root / NAME
        while own.exists():
            folders = sorted((path for path in own.rglob("*") if path.is_dir()), reverse=True)
            for folder in (*folders, own):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            if own.exists():
                if time.monotonic() > deadline:
                    raise ClusterError(f"{own} still holds processes")
                time.sleep(0.05)
