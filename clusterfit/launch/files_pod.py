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
from clusterfit.launch.pods import (
    explain_preparation,
    explain_waiting,
    has_ended,
    is_pulling,
    is_running,
    read_end,
    read_image,
)

_START_SECONDS: Final = 300.0
_PULL_SECONDS: Final = 3600.0
"""More, as long as its node pulls the image: gigabytes, where none of it is there."""
_PATIENCE_SECONDS: Final = 5.0
"""Between two questions why its node does not start it, which take several requests."""
_COPY_SECONDS: Final = 3600
"""What a pod that prints has, unless another time is given."""
_POLL_SECONDS: Final = 0.5

_ENDING: Final = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]

Say = Callable[[str], None]


@contextlib.contextmanager
def run_files_pod(
    api: Api,
    template: Manifest,
    run: str,
    command: Sequence[str],
    say: Say,
    seconds: int = _COPY_SECONDS,
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
        ClusterError: It did not start within five minutes, or an hour while its image is pulled.
    """
    name = f"{run}-files-{secrets.token_hex(3)}"
    pod = build_files_pod(template, name, command, seconds)
    with _unwinding_on_signals():
        try:
            api.create(PODS, pod)
        except BaseException:
            with contextlib.suppress(ClusterError):  # interrupted, or unanswered, it may be there
                api.delete(PODS, name, grace_seconds=0)
            raise
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

    before = {number: signal.signal(number, leave) for number in _ENDING}
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
    begun = time.monotonic()
    deadline = begun + _START_SECONDS
    said = ""
    asks_at = begun + _PATIENCE_SECONDS
    while True:
        pod = api.get(PODS, name)
        if is_running(pod) or has_ended(pod):
            return
        why, advice = explain_waiting(pod)
        if not why and time.monotonic() >= asks_at:
            why = explain_preparation(api, [pod])
            if not why and is_pulling(api, pod):
                why = f"its node pulls the image {read_image(pod)}"
                deadline = min(time.monotonic() + _START_SECONDS, begun + _PULL_SECONDS)
            asks_at = time.monotonic() + _PATIENCE_SECONDS
        if why and why != said:
            said = why
            say(f"waiting for the pod {name}: {why}")
        if time.monotonic() > deadline:
            minutes = (deadline - begun) / 60
            why = why or said or f"its node does not say why; see `kubectl get events{api.options}`"
            hint = f"; {advice}" if advice else ""
            raise ClusterError(f"pod {name}: not started within {minutes:.0f} minutes: {why}{hint}")
        time.sleep(_POLL_SECONDS)


def wait_until_ended(api: Api, name: str) -> int:
    """Wait until the pod's container has ended and return its exit code.

    Raises:
        ClusterError: The pod was refused by its node, or does not end within the time it has.
    """
    deadline = time.monotonic() + _COPY_SECONDS
    while True:
        pod = api.get(PODS, name)
        end = read_end(pod)
        if end is not None and end.exit_code is not None:
            return end.exit_code
        if has_ended(pod):
            why = end.describe() if end else "it has failed without saying why"
            raise ClusterError(f"pod {name}: {why}")
        if time.monotonic() > deadline:
            raise ClusterError(
                f"pod {name}: not over within {_COPY_SECONDS / 60:.0f} minutes; is its node alive?"
            )
        time.sleep(_POLL_SECONDS)
