"""Helm 4, as an administrator types it in a user's namespace."""

from __future__ import annotations

from pathlib import Path

from tests.cluster import programs
from tests.cluster.commands import run
from tests.cluster.paths import CHECKOUT, Cache
from tests.e2e.product import Product

RUN_CHART = CHECKOUT / "charts/clusterfit"


def helm(user: Product, *words: str | Path) -> str:
    """Type `helm WORDS` in the user's folder; return what it prints.

    Raises:
        CommandError: It failed.
    """
    cache = Cache.from_environment()
    programs.build(cache, programs.HELM_4)
    kubectl = user.namespace.kubectl
    scope = (f"--namespace={user.namespace.name}", f"--kubeconfig={kubectl.kubeconfig}")
    return run([programs.HELM_4.path(cache), *words, *scope], cwd=user.folder)
