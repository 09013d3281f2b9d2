"""Which packages computed an artifact."""

from __future__ import annotations

import importlib.metadata
from typing import Final

_PACKAGES: Final = (
    "clusterfit", "torch", "torchvision", "numpy", "safetensors", "faiss-cpu", "faiss-gpu-cuvs",
)  # fmt: skip


def read_versions() -> dict[str, str]:
    """Return the versions of the installed packages that change results."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # one of the two faiss wheels
    return versions
