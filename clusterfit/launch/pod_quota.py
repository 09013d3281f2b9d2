"""Quotas on the number of pods, which one pod that is tried in place of all does not show."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from clusterfit.launch.api import RESOURCE_QUOTAS, Api
from clusterfit.launch.failures import NotPermittedError
from clusterfit.launch.manifests import Manifest

EXCEEDED_QUOTA: Final = "exceeded quota"
"""How the server refuses what a quota has no room for."""
ALIVE: Final = "pods"
"""What a quota calls the pods that have not ended."""
KEPT: Final = "count/pods"
"""What it calls all that there are, also those that have ended."""

Pods = tuple[int, Manifest]
"""How many pods are made of a template, and the template."""


def select_quotas(api: Api) -> list[Manifest]:
    """Return the namespace's quotas; none where they may not be read."""
    try:
        return api.select(RESOURCE_QUOTAS)
    except NotPermittedError:
        return []  # each pod that is tried is still held against them


def find_excess(quotas: Iterable[Manifest], resource: str, pods: Iterable[Pods]) -> str:
    """Return which quota has no room for so many more pods, in the server's words; else nothing.

    Args:
        quotas: Of the namespace.
        resource: `ALIVE` or `KEPT`.
        pods: What is to be there at one time.
    """
    # Half a second of imports, which whoever speaks to a cluster has paid.
    from kubernetes.utils.quantity import parse_quantity

    pods = list(pods)
    for quota in quotas:
        status = quota.get("status") or {}
        if resource not in status.get("hard", {}):
            continue
        limited, used = status["hard"][resource], status["used"][resource]
        requested = sum(number for number, template in pods if _is_meant(quota, template["spec"]))
        if requested and parse_quantity(used) + requested > parse_quantity(limited):
            return (
                f"exceeded quota: {quota['metadata']['name']}, requested: {resource}={requested}, "
                f"used: {resource}={used}, limited: {resource}={limited}"
            )
    return ""


def _is_meant(quota: Manifest, pod: dict[str, Any]) -> bool:
    """Whether a quota counts such a pod: all of its scopes must hold."""
    spec = quota["spec"]
    terms = [{"scopeName": scope, "operator": "Exists"} for scope in spec.get("scopes", ())]
    terms += spec.get("scopeSelector", {}).get("matchExpressions", ())
    return all(_holds(term, pod) for term in terms)


def _holds(term: dict[str, Any], pod: dict[str, Any]) -> bool:
    if term["scopeName"] != "PriorityClass":
        # Every pod of a job of ours asks for memory, and has no deadline of its own.
        return term["scopeName"] in ("NotBestEffort", "NotTerminating")
    name = pod.get("priorityClassName", "")
    values = term.get("values", ())
    holds: dict[str, bool] = {
        "In": name in values,
        "NotIn": name not in values,
        "Exists": name != "",
        "DoesNotExist": name == "",
    }
    return holds[term["operator"]]
