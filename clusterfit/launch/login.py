"""Logging in as a kubeconfig says, and saying so where it fails.

The kubernetes package knows all the ways; of one that fails it writes a log
line and goes on as nobody.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import Any, Final

from clusterfit.launch.access import Access, find_context
from clusterfit.launch.failures import ClusterError, NoLoginError

_SAID_CHARACTERS: Final = 300
"""What a failed login says may be a page."""


def log_in(access: Access, settings: Any) -> None:
    """Fill in the server that the kubeconfig's context names, and the credentials for it.

    Raises:
        NoLoginError: The login fails.
        ClusterError: There is no kubeconfig, or it is wrong.
    """
    from kubernetes import config

    with _overhear() as said, _explain_login():
        config.load_kube_config(
            config_file=access.find_kubeconfig(),
            context=find_context(access) or None,
            persist_config=False,
            client_configuration=settings,
        )
    if settings.api_key or settings.cert_file:
        return
    login = _find_login_command(access)
    if login is not None:
        # The package goes on as nobody, and a server may take that for a question of rights.
        why = _shorten(said[-1].removeprefix("exec: ")) if said else "it gives no credentials"
        raise NoLoginError(f"no cluster: the kubeconfig's login command `{login}` failed: {why}")


def read_credentials(settings: Any) -> dict[str, str]:
    """Return the headers that authenticate a request; a token that is soon over is renewed.

    Where it is not renewed in time the server refuses it, and `log_in` finds out why.
    """
    with _overhear(), _explain_login():
        needed: Any = settings.auth_settings()
    return {auth["key"]: auth["value"] for auth in needed.values()}


def _find_login_command(access: Access) -> str | None:
    """Return the command by which the context's user logs in, for a message; None without one."""
    from kubernetes.config.kube_config import KubeConfigMerger

    merged = KubeConfigMerger(access.find_kubeconfig()).config
    context = merged["contexts"].get_with_name(find_context(access))["context"]
    user = merged["users"].get_with_name(context.safe_get("user"), safe=True)
    login = user and user["user"].safe_get("exec")
    if not login:
        return None
    words = [str(word) for word in (login.get("command", ""), *(login.get("args") or ()))]
    # Options may have secrets for values.
    shown = list(takewhile(lambda word: not word.startswith("-"), words))
    return shlex.join(shown) + (" ..." if len(shown) < len(words) else "")


class _Overheard(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it, where it is of no library that names itself."""
        if record.name == "root":
            self.said.append(record.getMessage())


@contextmanager
def _overhear() -> Iterator[list[str]]:
    """Yield what is logged meanwhile: the kubernetes package does no more with a failed login.

    Without a handler it would print it.
    """
    handler = _Overheard()
    logging.getLogger().addHandler(handler)
    try:
        yield handler.said
    finally:
        logging.getLogger().removeHandler(handler)


@contextmanager
def _explain_login() -> Iterator[None]:
    """Turn what the kubernetes package raises while it reads a kubeconfig and logs in into ours."""
    from kubernetes.config import ConfigException

    try:
        yield
    except ConfigException as error:
        said = _shorten(str(error)).removeprefix("Invalid kube-config file. ").rstrip(".")
        if "No configuration found" in said:
            said = "there is no kubeconfig"
        raise ClusterError(
            f"no cluster: {said}; set KUBECONFIG, or give --kubeconfig and --context"
        ) from None
    except Exception as error:  # noqa: BLE001 - each way to log in has a library with its own
        if isinstance(error, OSError) and error.filename:
            raise ClusterError(f"no cluster: the kubeconfig cannot be read: {error}") from None
        raise NoLoginError(
            "no cluster: the kubeconfig's login failed: "
            f"{type(error).__name__}: {_shorten(str(error))}"
        ) from None


def _shorten(said: str) -> str:
    """Return what was said as one line that is not too long."""
    line = " ".join(said.split())
    return line if len(line) <= _SAID_CHARACTERS else f"{line[:_SAID_CHARACTERS]} ..."
