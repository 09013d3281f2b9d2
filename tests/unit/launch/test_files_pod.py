"""The pod through which the claims are reached goes with the command that has started it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clusterfit.launch.api import EVENTS, PODS
from clusterfit.launch.failures import ClusterError
from clusterfit.launch.files_pod import run_files_pod, wait_until_ended, wait_until_started
from clusterfit.launch.pods import explain_preparation

from .api_server import RESET
from .object_server import Objects, serve_objects
from .test_submit import render


@pytest.fixture
def _in_the_foreground() -> Iterator[None]:
    """Hear Ctrl-C, which whatever a shell has started in the background ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_in_the_foreground")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_no_signal_leaves_it_behind(tmp_path: Path, number: signal.Signals) -> None:
    """Else it would sit there for a day, on the node of whoever has closed a terminal."""
    before = signal.getsignal(number)
    template = json.loads(render().config_map["data"]["files-pod.json"])
    with serve_objects() as (api, objects):
        objects.storage = tmp_path

        def be_ended() -> None:
            with run_files_pod(api, template, "digits", ["python", "-c", "0"], print):
                assert [path for path in objects.by_path if "/pods/" in path]
                os.kill(os.getpid(), number)
                time.sleep(60)  # which is interrupted

        with pytest.raises((SystemExit, KeyboardInterrupt)) as ending:
            be_ended()
        assert not objects.by_path
    assert ending.type is KeyboardInterrupt or ending.value.args == (128 + number,)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("trouble", [RESET, 500])
def test_one_that_may_have_been_made_all_the_same_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: int
) -> None:
    """The answer was lost, or a fault."""
    monkeypatch.setattr("secrets.token_hex", lambda _: "abcdef")
    template = json.loads(render().config_map["data"]["files-pod.json"])
    with serve_objects() as (api, objects):
        objects.storage = tmp_path

        def look_on(method: str, path: str) -> None:
            if method == "POST":
                objects.put(PODS, {"metadata": {"name": "made"}, "status": {}})
                objects.by_path[f"{path}/{names[0]}"] = objects.by_path.pop(f"{path}/made")
                objects.trouble.append(trouble)

        names = ["digits-files-abcdef"]
        objects.look_on = look_on
        pod = run_files_pod(api, template, "digits", ["python"], print)
        with pytest.raises(ClusterError):
            pod.__enter__()
        assert objects.by_path == {}


RUNNING: Any = {"running": {}}


def put_files_pod(objects: Objects, **status: Any) -> None:
    metadata = {"name": "files", "uid": "uid-of-files"}
    spec = {"nodeName": "node", "containers": [{"image": "x"}]}
    objects.put(PODS, {"metadata": metadata, "spec": spec, "status": status})


def test_one_that_its_node_has_refused_is_not_waited_for() -> None:
    with serve_objects() as (api, objects):
        put_files_pod(objects, phase="Failed", reason="OutOfcpu", message="Node has no room")
        wait_until_started(api, "files", print)
        with pytest.raises(ClusterError, match=r"^pod files: OutOfcpu: Node has no room$"):
            wait_until_ended(api, "files")


def test_one_whose_node_is_gone_is_waited_for_within_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clusterfit.launch.files_pod._COPY_SECONDS", 0)
    monkeypatch.setattr("clusterfit.launch.files_pod._POLL_SECONDS", 0)
    with serve_objects() as (api, objects):
        put_files_pod(objects, phase="Running", containerStatuses=[{"state": {"running": {}}}])
        with pytest.raises(ClusterError, match="not over within 0 minutes; is its node alive"):
            wait_until_ended(api, "files")


def test_what_its_node_cannot_mount_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("START", "POLL", "PATIENCE"):
        monkeypatch.setattr(f"clusterfit.launch.files_pod._{name}_SECONDS", 0)
    said: list[str] = []
    with serve_objects() as (api, objects):
        waiting = {"waiting": {"reason": "ContainerCreating"}}
        put_files_pod(objects, phase="Pending", containerStatuses=[{"state": waiting}])
        put_mount_failure(objects, "files")
        with pytest.raises(ClusterError, match=r"within 0 minutes: .*hostPath type check failed"):
            wait_until_started(api, "files", said.append)
    assert "its node cannot prepare it: MountVolume.SetUp failed" in said[0]


@pytest.fixture
def minutes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A clock that goes a minute further with each pause; the list has one entry for each."""
    passed: list[int] = []
    clock = SimpleNamespace(monotonic=lambda: 60.0 * len(passed), sleep=lambda _: passed.append(1))
    monkeypatch.setattr("clusterfit.launch.files_pod.time", clock)
    return passed


def put_pulled_pod(objects: Objects) -> None:
    """Put a pod whose node has begun to pull its image, as the kubelet says."""
    waiting = {"waiting": {"reason": "ContainerCreating"}}
    put_files_pod(objects, phase="Pending", containerStatuses=[{"state": waiting}])
    involved = {"kind": "Pod", "name": "files", "uid": "uid-of-files"}
    event = {"metadata": {"name": "files.1"}, "involvedObject": involved, "reason": "Pulling"}
    objects.put(EVENTS, {**event, "lastTimestamp": "2026-11-23T12:00:00Z"})


def test_an_image_may_take_longer_to_be_pulled_than_a_pod_to_start(
    minutes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with serve_objects() as (api, objects):
        put_pulled_pod(objects)
        ask = api.get

        def get(*which: Any) -> Any:
            if len(minutes) == 30:
                put_files_pod(objects, phase="Running", containerStatuses=[{"state": RUNNING}])
            return ask(*which)

        monkeypatch.setattr(api, "get", get)
        wait_until_started(api, "files", said.append)
    assert said == ["waiting for the pod files: its node pulls the image x"], "once"
    assert len(minutes) == 30


def test_a_pull_without_an_end_is_not_waited_for(minutes: list[int]) -> None:
    with serve_objects() as (api, objects):
        put_pulled_pod(objects)
        with pytest.raises(ClusterError, match=r"not started within 60 minutes: its node pulls"):
            wait_until_started(api, "files", lambda _: None)
    assert len(minutes) == 61


def test_a_node_that_says_nothing_is_said(minutes: list[int]) -> None:
    with serve_objects() as (api, objects):
        waiting = {"waiting": {"reason": "ContainerCreating"}}
        put_files_pod(objects, phase="Pending", containerStatuses=[{"state": waiting}])
        with pytest.raises(ClusterError) as failure:
            wait_until_started(api, "files", lambda _: None)
    assert str(failure.value) == (
        "pod files: not started within 5 minutes: its node does not say why; see `kubectl get "
        "events -n team`"
    )
    assert len(minutes) == 6


def test_what_came_right_since_is_not_the_matter() -> None:
    with serve_objects() as (api, objects):
        waiting = {"waiting": {"reason": "ContainerCreating"}}
        put_files_pod(objects, phase="Pending", containerStatuses=[{"state": waiting}])
        put_mount_failure(objects, "files")
        assert "hostPath" in explain_preparation(api, [objects.get(PODS, "files")])
        assert explain_preparation(api, []) == ""
        event = objects.get(EVENTS, "files.1")
        pulling = {**event, "metadata": {"name": "files.2"}, "reason": "Pulling"}
        objects.put(EVENTS, {**pulling, "lastTimestamp": "2026-11-23T12:00:05Z"})
        assert explain_preparation(api, [objects.get(PODS, "files")]) == ""


def put_mount_failure(objects: Objects, pod: str) -> None:
    """Put what the kubelet says where a folder of the node is not there."""
    event = {
        "metadata": {"name": f"{pod}.1"},
        "involvedObject": {"kind": "Pod", "name": pod, "uid": f"uid-of-{pod}"},
        "reason": "FailedMount",
        "message": 'MountVolume.SetUp failed for volume "ib" : hostPath type check failed',
        "lastTimestamp": "2026-11-23T12:00:00Z",
    }
    objects.put(EVENTS, event)
