"""The table of what is measured: data, shape, sides and how much of each.

N, D: of the data; K: num_clusters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from benchmarks.data import Data
from benchmarks.digits import DIM as DIGITS_DIM
from benchmarks.digits import NUM_ROWS as NUM_DIGITS
from benchmarks.settings import BEST, BLAS_SETTINGS, DEFAULT

OURS: Final = "clusterfit"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One measured call of a program."""

    label: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Side:
    """A program with its attempts, in one process of its own."""

    name: str
    program: str
    attempts: tuple[Attempt, ...]
    settings: tuple[str, ...] = (DEFAULT,)
    library: str = ""
    """Whose BLAS the setting `best` is for; empty where settings do not matter."""
    rounds: Mapping[str, int] = field(default_factory=dict)
    """Settings that take part in fewer rounds than the others."""


@dataclass(frozen=True, slots=True)
class Case:
    """Sides that are given the same data."""

    name: str
    task: str
    """`fit`, `assign` or `update`: what an outcome is; sums are not judged."""
    data: Data
    num_clusters: int
    sides: tuple[Side, ...]

    def scaled(self, num_rows: int, dim: int, num_clusters: int) -> Case:
        """Return the same case at another shape, on synthetic data."""
        data = replace(self.data, kind="relu", num_rows=num_rows, dim=dim)
        return replace(self, data=data, num_clusters=num_clusters)


def _twice(label: str, **options: Any) -> tuple[Attempt, Attempt]:
    """Return an attempt twice: its first use, and then warm."""
    return Attempt(label, options), Attempt(label, options)


def _assign_sides() -> tuple[Side, ...]:
    once = (Attempt("warm-up"), *_twice("assign"))
    both = (BEST, DEFAULT)
    gemm = tuple(Attempt(f"blocks of {rows} rows", {"chunk_rows": rows}) for rows in (1024, 4096))
    return (
        Side("faiss IndexFlatL2", "faiss_flat", once, both, "faiss"),
        Side("superkmeans assign", "super_kmeans_assign", once, both, "superkmeans"),
        Side("scikit-learn", "sklearn_assign", once, both, "scikit-learn"),
        Side("torch fp32", "torch_assign", once),
        Side("bf16 GEMM", "bf16_gemm", (Attempt("warm-up", {"chunk_rows": 4096}), *gemm, *gemm)),
        Side("int8 GEMM", "int8_gemm", (Attempt("warm-up", {"chunk_rows": 4096}), *gemm, *gemm)),
        Side(OURS, "clusterfit_assign", once),
        Side(f"{OURS} (no re-check)", "clusterfit_iterate", once),
        Side(
            f"{OURS} (fp32 forced)",
            "clusterfit_assign",
            tuple(replace(attempt, options={"arithmetic": "fp32"}) for attempt in once),
        ),
    )


def _blas_sides() -> tuple[Side, ...]:
    once = (Attempt("warm-up"), *_twice("assign"))
    settings = tuple(BLAS_SETTINGS)
    return (
        Side("faiss IndexFlatL2", "faiss_flat", once, settings, "faiss"),
        Side("superkmeans assign", "super_kmeans_assign", once, settings, "superkmeans"),
        Side("scikit-learn", "sklearn_assign", once, settings, "scikit-learn"),
    )


def _update_sides() -> tuple[Side, ...]:
    attempts = (Attempt("warm-up"), *(Attempt("update") for _ in range(5)))
    return (
        Side("faiss.contrib (np.add.at)", "faiss_update", attempts),
        Side("faiss' torch variant (index_add_)", "torch_update", attempts),
        Side(OURS, "clusterfit_update", attempts),
    )


def _lloyd(key: str, *counts: int, **others: Any) -> tuple[Attempt, ...]:
    """Return a short fit that starts threads, and then fits of so many iterations."""
    return (
        Attempt("warm-up", {key: 1, **others}),
        *(Attempt(f"{count} iterations", {key: count, **others}) for count in counts),
    )


def _two_level(key: str, *counts: int) -> tuple[Attempt, ...]:
    """Return fits of faiss.contrib's two levels and so many full iterations, the first twice."""
    attempts = [
        Attempt(f"two levels + {n} full", {key: n, "coarse_iterations": 10}) for n in counts
    ]
    return (attempts[0], *attempts)


def _hierarchical(*refinements: int) -> tuple[Attempt, ...]:
    """Return fits with so many refining iterations; the first one twice."""
    attempts = [
        Attempt(f"{n} refinements", {"hierarchical": True, "iters_refinement": n})
        for n in refinements
    ]
    return (attempts[0], *attempts)


def _ours(*counts: int, **others: Any) -> tuple[Attempt, ...]:
    """Return fits of so many iterations after the two-level start; the first one twice."""
    attempts = [Attempt(f"two levels + {n}", {"iterations": n, **others}) for n in counts]
    return (attempts[0], *attempts)


def _fit_sides() -> tuple[Side, ...]:
    both, best, once = (BEST, DEFAULT), (BEST,), {DEFAULT: 1}
    plain = {"init": "given", "num_candidates": 0, "relaxation": 1.0}
    return (
        Side(OURS, "clusterfit_fit", _ours(6, 9, 12, 16, 24)),
        Side("faiss.Kmeans", "faiss_kmeans", _lloyd("niter", 25), both, "faiss", once),
        Side("faiss.SuperKmeans", "faiss_super_kmeans", _lloyd("niter", 25), both, "faiss", once),
        Side("faiss two levels", "faiss_two_level", _two_level("full_iterations", 1, 4),
             best, "faiss"),
        Side("superkmeans flat", "super_kmeans", _lloyd("iters", 25, hierarchical=False),
             both, "superkmeans", once),
        Side("superkmeans hierarchical", "super_kmeans", _hierarchical(1, 2, 4),
             both, "superkmeans", once),
        Side("scikit-learn Lloyd", "sklearn_kmeans", _lloyd("max_iter", 25),
             best, "scikit-learn", {BEST: 1}),
        Side(f"{OURS} (fp32 forced)", "clusterfit_fit", _ours(12, 16, arithmetic="fp32"),
             rounds=once),
        Side(f"{OURS} (plain Lloyd)", "clusterfit_fit",
             (Attempt("warm-up", {"iterations": 1, **plain}),
              Attempt("25 iterations", {"iterations": 25, **plain})), rounds=once),
    )  # fmt: skip


CASES: Final = (
    Case("blas", "assign", Data("relu", 16384, 2048), 1024, _blas_sides()),
    Case("assign", "assign", Data("relu", 32768, 2048), 4096, _assign_sides()),
    Case("update", "update", Data("relu", 65536, 512), 1024, _update_sides()),
    Case("fit-2048", "fit", Data("relu", 65536, 2048), 1024, _fit_sides()),
    Case("fit-512", "fit", Data("relu", 131072, 512), 4096, _fit_sides()),
    Case("fit-digits", "fit", Data("digits", NUM_DIGITS, DIGITS_DIM), 1024,
         _fit_sides()),
    Case("fit-gaussian", "fit", Data("gaussian", 32768, 512), 1024, _fit_sides()),
)  # fmt: skip


def find_case(name: str) -> Case:
    """Return the case of that name.

    Raises:
        KeyError: when there is none.
    """
    return {case.name: case for case in CASES}[name]
