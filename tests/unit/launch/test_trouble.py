"""An API server that fails now and then: what lasts comes through, what is refused says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterfit.launch.access import Access
from clusterfit.launch.api import JOBS, PODS, PYTORCHJOBS, Api
from clusterfit.launch.control import delete_release
from clusterfit.launch.failures import ClusterError, NotFoundError, NotPermittedError
from clusterfit.launch.jobs import RELEASED_ANNOTATION
from clusterfit.launch.log_follow import follow_stage
from clusterfit.launch.logs import Wanted
from clusterfit.launch.plan import Plan, Release
from clusterfit.launch.remote_command import RemoteCommand
from clusterfit.launch.supervise import supervise
from clusterfit.launch.wait import wait_for_run
from tests.unit.conftest import Clock

from .api_server import RESET, Answer, serve, status_body
from .object_server import Objects, serve_objects, worker_pod
from .test_sequence import finish, job, planned

EXTRACT, CLUSTER = planned("extract"), planned("cluster")
BRIEF = [RESET, 429, 500, 503]
REFUSED = [401, 403]
MANY = 1000


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr("clusterfit.launch.wait._POLL_SECONDS", 0.01)
    monkeypatch.setattr("clusterfit.launch.control._POLL_SECONDS", 0.01)
    monkeypatch.setattr("clusterfit.launch.log_follow._POLL_SECONDS", 0.01)
    monkeypatch.setattr("clusterfit.launch.patience._REFUSED_SECONDS", 0)


@pytest.fixture
def server() -> Iterator[tuple[Api, Objects]]:
    """A release of two stages, the first of which has succeeded."""
    with serve_objects() as (api, objects):
        objects.put(PYTORCHJOBS, job(EXTRACT, suspend=False))
        finish(objects, EXTRACT, "Succeeded")
        objects.put(JOBS, job(CLUSTER, suspend=True))
        yield api, objects


def release(sequencing: str = "cluster") -> Release:
    plan = Plan("run", "run-step1", "team", (EXTRACT, CLUSTER), "none", "", sequencing)
    return Release(plan, "", "", {}, is_helm=False)


def fail(objects: Objects, status: int, verb: str, times: int = 2) -> None:
    """Let the server fail some times from the start, and at the first request of a verb."""
    objects.trouble.extend([status] * times)
    waiting = [verb]

    def look_on(method: str, _path: str) -> None:
        if waiting == [method] and not objects.trouble:
            waiting.clear()
            objects.trouble.extend([status] * times)

    objects.look_on = look_on


def finish_when_released(objects: Objects) -> None:
    """Let the second stage succeed as soon as it was released, as its pods would."""
    before = objects.look_on

    def look_on(method: str, path: str) -> None:
        before(method, path)
        manifest = objects.get(JOBS, CLUSTER.name)
        if not manifest["spec"]["suspend"] and not objects.trouble:
            finish(objects, CLUSTER, "Complete")

    objects.look_on = look_on


def is_released(objects: Objects) -> bool:
    return RELEASED_ANNOTATION in objects.get(JOBS, CLUSTER.name)["metadata"]["annotations"]


@pytest.mark.parametrize("times", [2, 12], ids=["brief", "longer than one request is tried"])
@pytest.mark.parametrize("status", [*BRIEF, *REFUSED])
def test_the_supervisor_outlasts_all_of_it(
    status: int, times: int, server: tuple[Api, Objects], capsys: pytest.CaptureFixture[str]
) -> None:
    """It has nobody to tell, and rights may be mended."""
    api, objects = server
    fail(objects, status, "PATCH", times)
    finish_when_released(objects)
    assert supervise(api, release().plan, poll_seconds=0.01) == 0
    assert is_released(objects)
    said = capsys.readouterr().out
    assert "all stages succeeded" in said
    assert said.count("msg=released") == 1
    if times == 12 or status in REFUSED:
        assert "msg=retrying why=" in said


@pytest.mark.parametrize("times", [2, 12], ids=["brief", "longer than one request is tried"])
@pytest.mark.parametrize("status", BRIEF)
def test_waiting_outlasts_what_is_brief(
    status: int, times: int, server: tuple[Api, Objects]
) -> None:
    api, objects = server
    fail(objects, status, "PATCH", times)
    finish_when_released(objects)
    said: list[str] = []
    assert wait_for_run(api, [release("client")], said.append) == 0
    assert is_released(objects)
    assert said.count("cluster: released") == 1
    assert any(remark.endswith("; trying again") for remark in said) is (times == 12)


def test_waiting_looks_again_where_a_stage_was_changed_meanwhile(
    server: tuple[Api, Objects],
) -> None:
    """As by somebody else who waits, and has released it first."""
    api, objects = server
    finish_when_released(objects)
    go_on = objects.look_on
    changed: list[str] = []

    def look_on(method: str, path: str) -> None:
        if method == "PATCH" and not changed:
            changed.append(path)
            objects.trouble.append(409)
        go_on(method, path)

    objects.look_on = look_on
    said: list[str] = []
    assert wait_for_run(api, [release("client")], said.append) == 0
    assert changed
    assert [remark for remark in said if "; trying again" in remark]


@pytest.mark.parametrize("status", REFUSED)
def test_waiting_ends_where_it_is_refused(status: int, server: tuple[Api, Objects]) -> None:
    api, objects = server
    objects.trouble.extend([status] * MANY)
    with pytest.raises(NotPermittedError) as failure:
        wait_for_run(api, [release()], print)
    check_line(failure.value, status)


@pytest.mark.parametrize("times", [2, MANY], ids=["for a moment", "for good"])
@pytest.mark.parametrize("status", REFUSED)
def test_waiting_outlasts_what_is_refused_for_a_moment(
    status: int, times: int, server: tuple[Api, Objects], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a server that has just come back, after it had allowed it."""
    monkeypatch.setattr("clusterfit.launch.patience._REFUSED_SECONDS", 30 if times == 2 else 0)
    api, objects = server
    requests: list[str] = []

    def look_on(_method: str, path: str) -> None:
        requests.append(path)
        if len(requests) == 5:
            objects.trouble.extend([status] * times)
        elif len(requests) > 5 and not objects.trouble:
            objects.put(JOBS, job(CLUSTER, suspend=False))
            finish(objects, CLUSTER, "Complete")

    objects.look_on = look_on
    said: list[str] = []
    if times == 2:
        assert wait_for_run(api, [release()], said.append) == 0
    else:
        with pytest.raises(NotPermittedError) as failure:
            wait_for_run(api, [release()], said.append)
        check_line(failure.value, status)
    assert len([remark for remark in said if remark.endswith("; trying again")]) == 1


def test_waiting_outlasts_a_server_that_is_away_for_long_and_refuses_as_it_comes_back(
    server: tuple[Api, Objects], monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr("clusterfit.launch.patience._REFUSED_SECONDS", 30)
    api, objects = server
    requests: list[str] = []
    before = 0.0

    def look_on(_method: str, path: str) -> None:
        nonlocal before
        requests.append(path)
        if len(requests) == 5:
            before = clock.now
            objects.trouble.extend([403, *[503] * 40, 403])
        elif len(requests) > 5 and not objects.trouble:
            objects.put(JOBS, job(CLUSTER, suspend=False))
            finish(objects, CLUSTER, "Complete")

    objects.look_on = look_on
    said: list[str] = []
    assert wait_for_run(api, [release()], said.append) == 0
    assert clock.now - before > 60
    assert [remark for remark in said if "403" in remark or "503" in remark]


def put_log(objects: Objects) -> None:
    objects.put(PODS, worker_pod(CLUSTER, "run-cluster-a", code=0))
    objects.logs["run-cluster-a"] = ["2026-11-23T12:00:01.000Z one", "2026-11-23T12:00:02.000Z two"]
    objects.put(JOBS, job(CLUSTER, suspend=False))


@pytest.mark.parametrize("times", [2, 12], ids=["brief", "longer than one request is tried"])
@pytest.mark.parametrize("status", BRIEF)
def test_a_follow_outlasts_what_is_brief(
    status: int, times: int, server: tuple[Api, Objects]
) -> None:
    api, objects = server
    put_log(objects)
    reads: list[str] = []

    def look_on(_method: str, path: str) -> None:
        if path.endswith("/log"):
            reads.append(path)
            if len(reads) == 1:
                objects.trouble.extend([status] * times)
            elif not objects.trouble:
                finish(objects, CLUSTER, "Complete")

    objects.look_on = look_on
    lines = follow_stage(api, release(), CLUSTER, Wanted(), print)
    assert [line.text for line in lines] == ["one", "two"]
    assert not objects.trouble
    assert len(reads) > 2


@pytest.mark.parametrize("status", REFUSED)
def test_a_follow_ends_where_it_is_refused(status: int, server: tuple[Api, Objects]) -> None:
    api, objects = server
    put_log(objects)

    def look_on(_method: str, path: str) -> None:
        objects.trouble.clear()
        if path.endswith("/log"):
            objects.trouble.append(status)

    objects.look_on = look_on
    with pytest.raises(NotPermittedError) as failure:
        list(follow_stage(api, release(), CLUSTER, Wanted(), print))
    check_line(failure.value, status)
    assert "run-cluster-a" in str(failure.value)


@pytest.mark.parametrize("status", BRIEF)
def test_a_deletion_outlasts_what_is_brief(status: int, server: tuple[Api, Objects]) -> None:
    api, objects = server
    for manifest in list(objects.by_path.values()):
        manifest["metadata"]["labels"] = {
            "app.kubernetes.io/instance": "run-step1", "clusterfit.dev/run": "run"
        }  # fmt: skip
    fail(objects, status, "DELETE")
    delete_release(None, api, Access("team"), release())
    assert objects.by_path == {}


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, NotPermittedError, "the cluster refuses your credentials (401); log in again"),
        (403, NotPermittedError, "run a command in pod x (create pods/exec): refused (403): no"),
        (429, ClusterError, "the cluster is overloaded (429)"),
        (500, ClusterError, "the cluster answered 500: no"),
        (RESET, ClusterError, "run a command in pod x (create pods/exec): "),
    ],
)
def test_a_command_in_a_pod_that_is_not_started_is_explained(
    status: int, kind: type[ClusterError], words: str, tmp_path: Path
) -> None:
    with (
        serve(tmp_path, Answer(status, status_body("no"))) as server,
        pytest.raises(ClusterError) as failure,
    ):
        RemoteCommand(server.open(), "x", ["tar"])
    assert type(failure.value) is kind
    assert words in str(failure.value)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("status", [401, 429, 500, 503])
def test_a_command_in_a_pod_outlasts_what_is_brief(status: int, tmp_path: Path) -> None:
    """What is not a websocket's answer ends it; that it came so far is what counts."""
    trouble = [Answer(status, status_body("no"))] * (1 if status == 401 else 2)
    gone = Answer(404, status_body("pods x not found", "NotFound"))
    with serve(tmp_path, *trouble, gone) as server, pytest.raises(NotFoundError):
        RemoteCommand(server.open(), "x", ["tar"])
    assert len(server.requests) == len(trouble) + 1


def check_line(error: ClusterError, status: int) -> None:
    assert f"({status})" in str(error)
    assert "\n" not in str(error)
