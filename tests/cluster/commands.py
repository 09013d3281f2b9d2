"""Run commands and wait for conditions, each with an error that says enough."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

# A command must not go on when the harness is killed: its cluster may be another one by then.
_SETPRIV = shutil.which("setpriv")
DIES_WITH_PARENT = (_SETPRIV, "--pdeathsig", "KILL", "--") if _SETPRIV else ()


class ClusterError(Exception):
    """The cluster could not be built, started or used; the message says why."""


class CommandError(ClusterError):
    """A command exited non-zero."""

    def __init__(self, command: Sequence[str], returncode: int, output: str) -> None:
        """Keep the exit status and what the command said."""
        tail = "\n".join(output.strip().splitlines()[-20:])
        super().__init__(f"{shlex.join(command)} exited {returncode}:\n{tail}")
        self.returncode = returncode
        self.output = output


def run(
    command: Sequence[str | Path],
    *,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_seconds: float = 300,
) -> str:
    """Run a command to its end, or to this process', and return its standard output.

    Args:
        command: The program and its arguments; no shell is involved.
        stdin: Text to feed to it; otherwise it reads end-of-file.
        env: Variables added to this process' environment.
        cwd: Its working directory.
        timeout_seconds: How long it may take.

    Raises:
        CommandError: It exited non-zero, is not there (returncode 127, as a shell has it), or took
            too long (124, as timeout(1) has it).
    """
    argv = [str(part) for part in command]
    try:
        done = subprocess.run(
            [*DIES_WITH_PARENT, *argv],
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, **env} if env else None,
            cwd=cwd,
            timeout=timeout_seconds,
            check=False,
        )
    except FileNotFoundError as missing:
        raise CommandError(argv, 127, str(missing)) from missing
    except subprocess.TimeoutExpired as late:
        raise CommandError(argv, 124, f"no answer in {timeout_seconds} s") from late
    if done.returncode != 0:
        raise CommandError(argv, done.returncode, done.stdout + done.stderr)
    return done.stdout


def wait_for(
    what: str,
    observe: Callable[[], T],
    done: Callable[[T], bool] = bool,
    *,
    timeout_seconds: float = 120,
    interval_seconds: float = 0.2,
) -> T:
    """Poll until a condition holds.

    An observation may fail with a ClusterError: an API server that is away is a state as well.

    Args:
        what: The condition in words, for the error.
        observe: Reads the present state.
        done: Whether that state is the wanted one.
        timeout_seconds: When to give up. Make it generous: it is a bound, not an expectation.
        interval_seconds: Pause between two looks.

    Returns:
        The state that fulfilled the condition.

    Raises:
        ClusterError: Time ran out; the message holds the last state that was seen.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        last: object
        try:
            state = observe()
            if done(state):
                return state
            last = state
        except ClusterError as error:
            last = error
        if time.monotonic() > deadline:
            raise ClusterError(
                f"{what}: not within {timeout_seconds} s. Last seen:\n{describe(last)}"
            )
        time.sleep(interval_seconds)


def describe(state: object) -> str:
    """Print a state for a person: JSON where it is data, its own words otherwise."""
    if isinstance(state, (dict, list, tuple)):
        return json.dumps(state, indent=2, default=str)[:8000]
    return str(state)


class Kubectl:
    """kubectl against one cluster. Objects go in and come out as plain dicts."""

    def __init__(
        self, kubeconfig: Path, program: Path | str = "kubectl", namespace: str = ""
    ) -> None:
        """Speak to the cluster of a kubeconfig, in one namespace if it is given."""
        self.kubeconfig = kubeconfig
        self.program = program
        self.namespace = namespace

    def command(self, *args: str) -> list[str]:
        """The full command line, for those who want to run it themselves (to follow a log, say)."""
        scope = ["--namespace", self.namespace] if self.namespace else []
        return [str(self.program), "--kubeconfig", str(self.kubeconfig), *scope, *args]

    def __call__(self, *args: str, stdin: str | None = None, timeout_seconds: float = 120) -> str:
        """Run it and return what it prints."""
        return run(self.command(*args), stdin=stdin, timeout_seconds=timeout_seconds)

    def get(self, *args: str) -> dict[str, Any]:
        """Read one object, or a list of them."""
        found: dict[str, Any] = json.loads(self("get", *args, "--output=json"))
        return found

    def apply(self, *objects: dict[str, Any]) -> None:
        """Create or update objects."""
        self("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=as_list(objects))

    def create(self, *objects: dict[str, Any]) -> None:
        """Create objects that must not exist yet."""
        self("create", "--filename=-", stdin=as_list(objects))


def as_list(objects: Sequence[dict[str, Any]]) -> str:
    """Write objects as one document that kubectl reads."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})


def wait_for_service_account(kubectl: Kubectl, namespace: str) -> None:
    """Wait until pods can be created in a new namespace: every pod has a service account."""
    get = (f"--namespace={namespace}", "get", "serviceaccount", "default")
    wait_for(f"service account of {namespace}", lambda: kubectl(*get))
