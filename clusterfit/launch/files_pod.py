"""The short-lived pod through which the claims are reached: for log copies, `put` and `get`.

The chart renders it beside the stages, so it has their image, user, claims and security.
"""

from __future__ import annotations

import contextlib
import copy
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Final, NoReturn

from clusterfit.launch.api import PODS, Api
from clusterfit.launch.failures import ClusterError
from clusterfit.launch.manifests import Manifest
from clusterfit.launch.pods import explain_waiting, is_running, read_end, read_phase

_START_SECONDS: Final = 300.0
_POLL_SECONDS: Final = 0.5

Say = Callable[[str], None]


@contextlib.contextmanager
def run_files_pod(
    api: Api, template: Manifest, run: str, command: Sequence[str], say: Say, seconds: int = 3600
) -> Iterator[str]:
    """Start the pod with a command, yield its name once it runs or has ended, and remove it.

    Args:
        api: The namespace.
        template: files-pod.json of a release.
        run: Name of the run, for the pod's name.
        command: In exec form.
        say: Is told why it has not started.
        seconds: After this time the cluster ends it, should we die before.

    Raises:
        ClusterError: It did not start within five minutes.
    """
    name = f"{run}-files-{secrets.token_hex(3)}"
    pod = build_files_pod(template, name, command, seconds)
    with _unwinding_on_signals():
        api.create(PODS, pod)
        try:
            wait_until_started(api, name, say)
            yield name
        finally:
            # Nothing in it is worth a grace, and Ctrl-C must not leave it behind.
            api.delete(PODS, name, grace_seconds=0)


@contextlib.contextmanager
def _unwinding_on_signals() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end this process as Ctrl-C does, not at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # who is told is the main thread
        return

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def build_files_pod(
    template: Manifest, name: str, command: Sequence[str], seconds: int
) -> Manifest:
    """Return the pod of a template with its name, command and limit."""
    pod = copy.deepcopy(template)
    pod["metadata"]["name"] = name
    pod["spec"]["activeDeadlineSeconds"] = seconds
    pod["spec"]["containers"][0]["command"] = list(command)
    # config.json is of no use here, and its ConfigMap may not exist yet.
    pod["spec"]["volumes"] = [item for item in pod["spec"]["volumes"] if item["name"] != "config"]
    mounts = pod["spec"]["containers"][0]["volumeMounts"]
    pod["spec"]["containers"][0]["volumeMounts"] = [
        mount for mount in mounts if mount["name"] != "config"
    ]
    return pod


def wait_until_started(api: Api, name: str, say: Say) -> None:
    """Wait until the pod's container runs or has ended."""
    deadline = time.monotonic() + _START_SECONDS
    said = ""
    while True:
        pod = api.get(PODS, name)
        if is_running(pod) or read_phase(pod) in ("Succeeded", "Failed"):
            return
        why, advice = explain_waiting(pod)
        if why and why != said:
            said = why
            say(f"waiting for the pod {name}: {why}")
        if time.monotonic() > deadline:
            hint = f"; {advice}" if advice else ""
            raise ClusterError(f"pod {name}: not started within 5 minutes: {why}{hint}")
        time.sleep(_POLL_SECONDS)


def wait_until_ended(api: Api, name: str) -> int:
    """Wait until the pod's container has ended and return its exit code."""
    while True:
        end = read_end(api.get(PODS, name))
        if end is not None:
            return end.exit_code
        time.sleep(_POLL_SECONDS)
