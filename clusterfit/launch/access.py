"""Which cluster and namespace a command means."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from clusterfit.launch.failures import ClusterError

_DEFAULT_NAMESPACE: Final = "default"


@dataclass(frozen=True, slots=True)
class Access:
    """What `-n`, `--context` and `--kubeconfig` said; empty: the kubeconfig decides."""

    namespace: str = ""
    context: str = ""
    kubeconfig: str = ""
    current: str = field(default="", compare=False)
    """The kubeconfig's current context when the command began: it goes on in this one, whatever
    `kubectl config use-context` does meanwhile."""

    @property
    def used_context(self) -> str:
        """The context that is meant; empty where the kubeconfig has not been looked at."""
        return self.context or self.current

    def as_options(self) -> str:
        """Return the options that lead another command of ours to the same place."""
        given = (
            ("-n", self.namespace), ("--context", self.context), ("--kubeconfig", self.kubeconfig)
        )  # fmt: skip
        return "".join(f" {option} {shlex.quote(value)}" for option, value in given if value)

    def find_kubeconfig(self) -> str:
        """Return the kubeconfig's path, or several that are merged, as kubectl finds them."""
        return (
            self.kubeconfig
            or os.environ.get("KUBECONFIG", "")
            or str(Path("~/.kube/config").expanduser())
        )


def resolve_access(access: Access) -> Access:
    """Fill in the namespace that the kubeconfig's context says, else `default`.

    Files are read, nobody is asked: what is rendered without a cluster is for the namespace that
    it would be submitted to.

    Raises:
        ClusterError: The kubeconfig has not the context that was named, or is none.
    """
    namespaces, current = _read_contexts(access)
    if access.context and access.context not in namespaces:
        there = ", ".join(namespaces) or "none"
        raise ClusterError(
            f"no cluster: the kubeconfig has no context {access.context}; the contexts are "
            f"{there}; give one of them to --context, or another --kubeconfig"
        )
    found = namespaces.get(access.context or current, "")
    namespace = access.namespace or found or _DEFAULT_NAMESPACE
    return Access(namespace, access.context, access.kubeconfig, current)


def find_context(access: Access) -> str:
    """Return the name of the context that is meant; empty where no kubeconfig says one.

    Of several kubeconfigs the first that names a current one decides, as kubectl has it; the
    kubernetes package takes the last.
    """
    return access.used_context or _read_contexts(access)[1]


def _read_contexts(access: Access) -> tuple[dict[str, str], str]:
    """Return the namespace of each context, and the name of the current one.

    Of several files the first that says something wins; one that is not there says nothing.
    """
    namespaces: dict[str, str] = {}
    current = ""
    for path in filter(None, access.find_kubeconfig().split(os.pathsep)):
        try:
            said: Any = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
            current = current or (said or {}).get("current-context") or ""
            for item in (said or {}).get("contexts") or ():
                namespace = (item.get("context") or {}).get("namespace") or ""
                namespaces.setdefault(str(item["name"]), str(namespace))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ClusterError(f"no cluster: the kubeconfig cannot be read: {error}") from None
        except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError):
            raise ClusterError(f"no cluster: {path} is no kubeconfig") from None
    return namespaces, current
