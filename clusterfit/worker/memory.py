"""How much memory this rank may still take: what fits into it is decided from that."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Final

import torch

from clusterfit.worker.cgroups import list_groups

_MEMINFO: Final = Path("/proc/meminfo")


def find_available_bytes(device: torch.device) -> tuple[int, str]:
    """Return the bytes that this rank may take, and what bounds them.

    The ranks of a node share its memory and its cgroup's; a GPU and a ulimit are a rank's own.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free), "free memory of the GPU"
    ranks_here = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    bounds = [_read_memory()]
    bounds += [(room, "limit of the cgroup") for room in _read_cgroups()]
    bounds = [(room // ranks_here, what) for room, what in bounds]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        bounds.append((limit - taken * resource.getpagesize(), "ulimit -v"))
    room, what = min(bounds)
    return max(0, room), what


def _read_memory() -> tuple[int, str]:
    """Return what this computer has left; where nothing tells that, as on macOS, what it has."""
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
        left = next(line for line in lines if line.startswith("MemAvailable:"))
    except (FileNotFoundError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "memory"
    return int(left.split()[1]) << 10, "available memory"


def _read_cgroups() -> list[int]:
    """Return the room below each limit, cgroup v2 or v1."""
    rooms = [_read_cgroup(folder) for folder in list_groups("memory")]
    return [room for room in rooms if room is not None]


def _read_cgroup(folder: Path) -> int | None:
    """Return the room below a group's limit, if it has one; what it caches of files is room too."""
    for limit_name, usage_name, cache_key in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            limit = (folder / limit_name).read_text(encoding="ascii").strip()
            usage = int((folder / usage_name).read_text(encoding="ascii"))
            stat = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        except (OSError, ValueError):
            continue
        if limit == "max" or int(limit) >= 1 << 60:
            return None
        cached = sum(int(line.split()[1]) for line in stat if line.split()[0] == cache_key)
        return int(limit) - usage + cached
    return None
