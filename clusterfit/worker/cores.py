"""How many cores this container may use."""

from __future__ import annotations

import os
from pathlib import Path

from clusterfit.worker.cgroups import list_groups


def count_cores() -> int:
    """Return the cores of this process: its affinity, cut to its cgroup's quota, at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    available = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = _read_quota()
    return max(1, min(available, int(quota))) if quota else available


def _read_quota() -> float | None:
    """Return the smallest CPU quota in cores, cgroup v2 or v1, or None where there is none."""
    quotas = [quota for folder in list_groups("cpu") if (quota := _read_group(folder))]
    return min(quotas, default=None)


def _read_group(folder: Path) -> float | None:
    try:
        limit, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit_v1 = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period_v1 = int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return limit_v1 / period_v1 if limit_v1 > 0 else None
