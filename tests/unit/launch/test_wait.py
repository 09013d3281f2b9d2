"""Whoever waits for a run is told how it ended, also where it will never end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from clusterfit.launch.api import JOBS, PYTORCHJOBS, Api
from clusterfit.launch.control import cancel_run, resume_run, suspend_run
from clusterfit.launch.failures import NotFoundError
from clusterfit.launch.jobs import QUEUE_LABEL, SUPERVISOR, suspend_stage
from clusterfit.launch.plan import Release
from clusterfit.launch.status import read_status
from clusterfit.launch.wait import TIMED_OUT, wait_for_run

from .object_server import Objects, serve_objects
from .test_sequence import TOO_LONG, finish, job, make_plan, planned, put_workload

EXTRACT, CLUSTER = planned("extract"), planned("cluster")
PLAN = make_plan(EXTRACT, CLUSTER)
RELEASE = Release(PLAN, "", "", {}, is_helm=True)


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusterfit.launch.wait._POLL_SECONDS", 0.01)


@pytest.fixture
def server() -> Iterator[tuple[Api, Objects]]:
    with serve_objects() as (api, objects):
        objects.put(PYTORCHJOBS, job(EXTRACT, suspend=False))
        objects.put(JOBS, job(CLUSTER, suspend=True))
        yield api, objects


def test_each_stage_is_released_in_client_mode(server: tuple[Api, Objects]) -> None:
    api, objects = server
    release = replace(RELEASE, plan=replace(PLAN, sequencing="client"))
    finish(objects, EXTRACT, "Succeeded")

    def say(text: str) -> None:
        if text == "cluster: released":
            finish(objects, CLUSTER, "Complete")

    assert wait_for_run(api, [release], say) == 0


def test_to_wait_for_nothing_is_no_success(server: tuple[Api, Objects]) -> None:
    with pytest.raises(NotFoundError, match=r"^no release to wait for in namespace team$"):
        wait_for_run(server[0], [], lambda _: None)


@pytest.mark.parametrize(("condition", "code"), [("Failed", 1), ("Running", TIMED_OUT)])
def test_a_stage_that_failed_ends_it(
    server: tuple[Api, Objects], condition: str, code: int
) -> None:
    api, objects = server
    finish(objects, EXTRACT, condition)
    assert wait_for_run(api, [RELEASE], lambda _: None, timeout_seconds=0.01) == code


def test_what_was_given_up_ends_it_and_what_was_suspended_does_not(
    server: tuple[Api, Objects],
) -> None:
    api, objects = server
    said: list[str] = []
    suspend_run(api, [RELEASE], "ann")
    assert wait_for_run(api, [RELEASE], said.append, timeout_seconds=0.01) == TIMED_OUT
    for stop in (
        lambda: suspend_stage(api, PLAN, EXTRACT, SUPERVISOR, "it took too long"),
        lambda: cancel_run(api, [RELEASE], "ann"),
    ):
        said.clear()
        objects.put(PYTORCHJOBS, job(EXTRACT, suspend=False))
        stop()
        assert wait_for_run(api, [RELEASE], said.append, timeout_seconds=0.01) == 1
        assert said[-1] == "extract: goes on only after `clusterfit resume run -n team`"


def test_what_was_suspended_and_then_cancelled_is_given_up(server: tuple[Api, Objects]) -> None:
    api, _ = server
    suspend_run(api, [RELEASE], "ann")
    assert cancel_run(api, [RELEASE], "ann") == [EXTRACT]
    assert wait_for_run(api, [RELEASE], lambda _: None, timeout_seconds=0.01) == 1
    assert cancel_run(api, [RELEASE], "ann") == []


@pytest.mark.parametrize(("stop", "code"), [(suspend_run, TIMED_OUT), (cancel_run, 1)])
def test_a_run_that_is_stopped_between_two_stages_stays_so(
    server: tuple[Api, Objects], stop: Any, code: int
) -> None:
    api, objects = server
    release = replace(RELEASE, plan=replace(PLAN, sequencing="client"))
    finish(objects, EXTRACT, "Succeeded")
    assert stop(api, [release], "ann") == [CLUSTER]
    assert wait_for_run(api, [release], lambda _: None, timeout_seconds=0.01) == code
    assert objects.get(JOBS, CLUSTER.name)["spec"]["suspend"] is True
    assert resume_run(api, [release]) == [CLUSTER]
    assert objects.get(JOBS, CLUSTER.name)["spec"]["suspend"] is False


def test_what_was_removed_ends_it(
    server: tuple[Api, Objects], monkeypatch: pytest.MonkeyPatch
) -> None:
    api, objects = server
    monkeypatch.setattr("clusterfit.launch.wait.INSTALL_SECONDS", 0)
    objects.remove(PYTORCHJOBS, EXTRACT.name)
    with pytest.raises(NotFoundError, match="extract: PyTorchJob run-extract was removed") as ended:
        wait_for_run(api, [RELEASE], lambda _: None, timeout_seconds=0.01)
    assert ended.value.exit_code == 3


@pytest.mark.parametrize("is_over", [True, False])
def test_a_release_whose_stages_may_have_expired_is_not_waited_for(
    server: tuple[Api, Objects], is_over: bool
) -> None:
    """Where the run file says how long its stages stay; another release of the run goes on."""
    api, objects = server
    if is_over:
        finish(objects, EXTRACT, "Succeeded")
        finish(objects, CLUSTER, "Complete")
    said: list[str] = []
    code = wait_for_run(api, [RELEASE, make_expired(api)], said.append, timeout_seconds=0.01)
    assert code == (0 if is_over else TIMED_OUT)
    assert said.count("run-step2: its stages are gone; it is not waited for") == 1
    assert not any("train" in text for text in said)


@pytest.mark.parametrize("failed", ["run-step1", "run-step2", ""])
def test_a_run_of_two_releases_fails_where_either_has(failed: str) -> None:
    first = Release(replace(PLAN, release="run-step1", stages=(EXTRACT,)), "", "", {}, is_helm=True)
    train = planned("train")
    second = replace(first, plan=replace(PLAN, release="run-step2", stages=(train,)))
    with serve_objects() as (api, objects):
        for release in (first, second):
            (stage,) = release.plan.stages
            objects.put(PYTORCHJOBS, job(stage, suspend=False))
            finish(objects, stage, "Failed" if release.plan.release == failed else "Succeeded")
        code = wait_for_run(api, [first, second], lambda _: None, timeout_seconds=0.01)
    assert code == (1 if failed else 0)


def test_that_all_is_gone_is_no_success(server: tuple[Api, Objects]) -> None:
    """Somebody may have removed the stages while they worked, or after one had failed."""
    api, _ = server
    with pytest.raises(NotFoundError, match="nothing here tells how they ended") as ended:
        wait_for_run(api, [make_expired(api)], lambda _: None, timeout_seconds=0.01)
    assert ended.value.exit_code == 3
    new = replace(make_expired(api), created=api.now().isoformat())
    assert wait_for_run(api, [new], lambda _: None, timeout_seconds=0.01) == TIMED_OUT


def make_expired(api: Api) -> Release:
    """Return an old release without a job, whose stages are removed after their success."""
    old = replace(PLAN, release="run-step2", stages=(planned("train"),), ttl_seconds=60)
    return Release(old, "", api.now().replace(year=2025).isoformat(), {}, is_helm=True)


@pytest.mark.parametrize(("active", "code"), [(False, 1), (True, TIMED_OUT)])
def test_what_kueue_has_given_up_ends_it_and_what_it_has_preempted_does_not(
    server: tuple[Api, Objects], active: bool, code: int
) -> None:
    api, objects = server
    objects.put(PYTORCHJOBS, job(EXTRACT, suspend=True, labels={QUEUE_LABEL: "gpu"}))
    put_workload(objects, EXTRACT.name, active=active)
    release = replace(RELEASE, plan=make_plan(EXTRACT, CLUSTER, gang="kueue"))
    said: list[str] = []
    assert wait_for_run(api, [release], said.append, timeout_seconds=0.01) == code
    if not active:
        assert f"extract: suspended: {TOO_LONG}" in said
        assert said[-1] == "extract: goes on only after `clusterfit resume run -n team`"


def test_who_may_not_read_kueues_objects_waits_all_the_same(
    server: tuple[Api, Objects],
) -> None:
    api, objects = server
    objects.kinds.remove("workloads")
    objects.put(PYTORCHJOBS, job(EXTRACT, suspend=True, labels={QUEUE_LABEL: "gpu"}))
    release = replace(RELEASE, plan=make_plan(EXTRACT, CLUSTER, gang="kueue"))
    assert wait_for_run(api, [release], lambda _: None, timeout_seconds=0.01) == TIMED_OUT


def test_advice_leads_to_the_cluster_that_was_asked(server: tuple[Api, Objects]) -> None:
    """There may be a run of that name on another one."""
    api, _ = server
    elsewhere = Api(lambda: api.connection, "team", " -n team --context prod")
    cancel_run(api, [RELEASE], "ann")
    said: list[str] = []
    assert wait_for_run(elsewhere, [RELEASE], said.append) == 1
    assert said[-1].endswith("`clusterfit resume run -n team --context prod`")
    (extract, _) = read_status(elsewhere, "run", [RELEASE]).stages
    assert extract.cause.advice == "clusterfit resume run -n team --context prod"
