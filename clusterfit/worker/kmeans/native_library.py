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

from clusterfit.artifacts.files import write_file
from clusterfit.errors import RetryableError, WriteError
from clusterfit.worker.cpu_flags import read_cpu_flags
from clusterfit.worker.seal import compute_seal, unseal

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
        return _load(compiler), f"compiled by {compiler}"
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["no message"]
        return None, f"{compiler} failed: {lines[0]}"
    except OSError as error:
        return None, f"{compiler}: {error.strerror or error}"


def _load(compiler: str) -> ctypes.CDLL:
    machine = [platform.machine(), *sorted(read_cpu_flags()), compiler, *_FLAGS]
    digest = hashlib.sha256(_SOURCE.read_bytes() + "\n".join(machine).encode()).hexdigest()[:16]
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    kept = Path(base) / "clusterfit" / f"kmeans-{digest}.so"
    if _is_whole(kept):
        return ctypes.CDLL(str(kept))
    with tempfile.TemporaryDirectory(prefix="clusterfit-") as folder:
        built = _compile(compiler, Path(folder))
        content = built.read_bytes()
        try:
            write_file(kept, content + compute_seal(content))  # the loader reads no further than it
        except (WriteError, RetryableError):  # what is loaded needs no file
            return ctypes.CDLL(str(built))
    return ctypes.CDLL(str(kept))


def _is_whole(kept: Path) -> bool:
    """Tell whether a library is there and as it was written: a torn one would kill the process."""
    try:
        return unseal(kept.read_bytes()) is not None
    except OSError:
        return False


def _compile(compiler: str, folder: Path) -> Path:
    built = folder / "kmeans.so"
    subprocess.run(
        [compiler, *_FLAGS, "-o", str(built), str(_SOURCE)],
        check=True,
        capture_output=True,
        text=True,
    )
    return built
