"""Compile native.cpp where it runs, and keep the library."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

_SOURCE: Final = Path(__file__).with_name("native.cpp")
_FLAGS: Final = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC")
_COMPILERS: Final = ("g++", "clang++", "c++")


def load_library() -> tuple[ctypes.CDLL | None, str]:
    """Return the compiled loops, or None, and the reason.

    The library is kept in the user's cache folder under the digest of its source, flags and
    machine, so only the first process of a machine compiles.
    """
    compiler = next((path for name in _COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        return None, f"no C++ compiler ({', '.join(_COMPILERS)}) on PATH"
    try:
        return ctypes.CDLL(str(_compile(compiler))), f"compiled by {compiler}"
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["no message"]
        return None, f"{compiler} failed: {lines[0]}"
    except OSError as error:
        return None, f"{compiler}: {error.strerror or error}"


def _compile(compiler: str) -> Path:
    machine = [platform.machine(), _read_cpu_flags(), compiler, *_FLAGS]
    digest = hashlib.sha256(_SOURCE.read_bytes() + "\n".join(machine).encode()).hexdigest()[:16]
    target = _find_cache_folder() / f"kmeans-{digest}.so"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        built = Path(folder) / "kmeans.so"
        subprocess.run(
            [compiler, *_FLAGS, "-o", str(built), str(_SOURCE)],
            check=True,
            capture_output=True,
            text=True,
        )
        built.replace(target)  # ranks that compile at once replace equal files
    return target


def _find_cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "clusterfit"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    except OSError:  # a home that cannot be written
        return Path(tempfile.mkdtemp(prefix="clusterfit-"))


def _read_cpu_flags() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
