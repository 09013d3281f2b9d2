"""The environment of a measured process: nothing that a BLAS listens to but what is named here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

DEFAULT: Final = "default"
BEST: Final = "best"

BLAS_SETTINGS: Final[Mapping[str, Mapping[str, str]]] = {
    DEFAULT: {},
    "Haswell": {"OPENBLAS_CORETYPE": "Haswell"},
    "SkylakeX": {"OPENBLAS_CORETYPE": "SkylakeX"},
    "Zen": {"OPENBLAS_CORETYPE": "Zen"},
}
"""What is tried for libraries that bring OpenBLAS, which may take a new processor for an old one.
`best` is the fastest of them for a library, as the case `blas` found."""

_SILENCED: Final = (
    "OPENBLAS_", "MKL_", "OMP_", "GOTO_", "KMP_", "GOMP_", "TORCH", "BLIS_", "VECLIB_", "DNNL_",
    "ONEDNN_",
)  # fmt: skip


def build_environment(setting: str, num_threads: int, cache_folder: str) -> dict[str, str]:
    """Return the environment of a process that measures.

    Args:
        setting: one of `BLAS_SETTINGS`.
        num_threads: of every pool.
        cache_folder: where compiled code goes; an empty one makes the first use a first use.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_SILENCED)}
    return kept | {
        "OMP_NUM_THREADS": str(num_threads),
        "TORCHINDUCTOR_CACHE_DIR": cache_folder,
        "TRITON_CACHE_DIR": cache_folder,
        "XDG_CACHE_HOME": cache_folder,
        **BLAS_SETTINGS[setting],
    }
