"""The worker's packages, which an installation for submitting alone does not have."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from clusterfit.errors import ConfigError

if TYPE_CHECKING:
    from clusterfit.config.stages import StageName

WORKER_MODULES: Final = frozenset(
    {"numpy", "torch", "torchvision", "safetensors", "PIL", "sklearn", "faiss"}
)
"""What the extras `cpu` and `gpu` bring."""


def check_worker_modules(stages: Sequence[StageName]) -> None:
    """Look for what a local worker imports before it begins these stages; import nothing.

    Raises:
        ConfigError: some of it is not installed.
    """
    wanted = ["numpy", "torch", "safetensors"]
    if any(stage != "cluster" for stage in stages):
        wanted += ["torchvision", "PIL"]
    if "cluster" in stages:
        wanted += ["faiss"]
    if missing := [name for name in wanted if not importlib.util.find_spec(name)]:
        raise ConfigError(explain_missing(*missing))


def explain_missing(*modules: str) -> str:
    """Return one line that says which of the worker's modules are missing, and what brings them."""
    return (
        f"{', '.join(modules)}: not installed; this needs the worker's packages, which "
        "`pip install 'clusterfit[cpu]'` brings, or 'clusterfit[gpu]'"
    )
