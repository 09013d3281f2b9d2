"""What this machine's CPU says that it can do."""

from __future__ import annotations

from pathlib import Path


def read_cpu_flags() -> frozenset[str]:
    """Return the flags (x86) or features (Arm) of the first processor; none where nobody knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    line = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(line.partition(":")[2].split())
