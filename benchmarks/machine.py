"""What a result is only true of: the machine, the versions, the code."""

from __future__ import annotations

import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from clusterfit.worker.cores import count_cores
from clusterfit.worker.cpu_flags import read_cpu_flags

PACKAGES: Final = (
    "torch", "faiss-cpu", "superkmeans", "scikit-learn", "numpy", "fastkmeans", "flash-kmeans",
)  # fmt: skip
_FLAGS: Final = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def describe_machine() -> dict[str, Any]:
    """Return processor, cores, memory and what of the instruction set matters here."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    fields = dict(re.findall(r"^([^\n:\t]+)\t*: (.*)$", text, re.MULTILINE))
    present = read_cpu_flags()
    [kib] = re.findall(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "processor": f"{fields.get('model name', platform.machine())}, "
        f"family {fields.get('cpu family', '?')} model {fields.get('model', '?')}",
        "cores": count_cores(),
        "memory_gib": round(int(kib) / 2**20, 1),
        "instructions": [flag for flag in _FLAGS if flag in present],
        "virtual": "hypervisor" in present,
        "system": f"Linux {platform.release().split('-')[0]}, Python {platform.python_version()}",
    }


def describe_versions() -> dict[str, str]:
    """Return the packages that are measured, and the commit that measures them."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions | {"clusterfit": _describe_commit() or version("clusterfit")}


def _describe_commit() -> str:
    """Return this checkout's commit; nothing where it is none, or nobody has git."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        described = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return described.stdout.strip()
