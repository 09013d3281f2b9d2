"""What can be measured, by name: our engines and their peers behind one small interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.data import read_features


@dataclass
class Inputs:
    """What every side is given."""

    folder: Path
    """Features, as extract writes them."""
    centroids: np.ndarray
    """(K, D) float32: where a fit starts, or what rows are assigned to."""
    seed: int
    num_threads: int
    kept: dict[str, Any] = field(default_factory=dict)
    """What a program keeps from its first use to the next."""

    @cached_property
    def rows(self) -> np.ndarray:
        """All (N, D) float32 rows in memory, C-contiguous."""
        return read_features(self.folder)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt made."""

    result: np.ndarray | None
    """(K, D) float32 centroids of a fit, (N,) int64 assignments of an assignment."""
    said: dict[str, Any] = field(default_factory=dict)
    """What the side says of itself, for the record."""


@dataclass(frozen=True, slots=True)
class Program:
    """One thing to measure."""

    run: Callable[[Inputs, Mapping[str, Any]], Outcome]
    needs_rows: bool
    """Whether rows are in memory before the clock starts."""


_PROGRAMS: Final[Mapping[str, tuple[str, bool]]] = {
    "faiss_kmeans": ("benchmarks.peers", True),
    "faiss_super_kmeans": ("benchmarks.peers", True),
    "faiss_two_level": ("benchmarks.peers", True),
    "faiss_flat": ("benchmarks.peers", True),
    "super_kmeans": ("benchmarks.peers", True),
    "super_kmeans_assign": ("benchmarks.peers", True),
    "sklearn_kmeans": ("benchmarks.peers", True),
    "sklearn_assign": ("benchmarks.peers", True),
    "torch_assign": ("benchmarks.peers", True),
    "bf16_gemm": ("benchmarks.peers", True),
    "int8_gemm": ("benchmarks.peers", True),
    "faiss_update": ("benchmarks.peers", True),
    "torch_update": ("benchmarks.peers", True),
    "clusterfit_update": ("benchmarks.ours", True),
    "clusterfit_fit": ("benchmarks.ours", False),
    "clusterfit_assign": ("benchmarks.ours", False),
    "clusterfit_iterate": ("benchmarks.ours", True),
}


def load(name: str) -> Program:
    """Return a program; only its own libraries are imported."""
    module, needs_rows = _PROGRAMS[name]
    return Program(getattr(import_module(module), name), needs_rows)
