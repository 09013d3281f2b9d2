"""Removing a release leaves nothing of it, or says what is left and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from clusterfit.launch.access import Access
from clusterfit.launch.api import JOBS, PODS, PYTORCHJOBS, WORKLOADS, Api
from clusterfit.launch.control import cancel_run, delete_release, resume_run
from clusterfit.launch.failures import NotPermittedError, RefusedError
from clusterfit.launch.helm import read_error
from clusterfit.launch.jobs import (
    QUEUE_LABEL,
    JobState,
    Phase,
    read_state,
    resume_stage,
    see_workload,
    suspend_stage,
)
from clusterfit.launch.plan import RELEASE_LABEL, ROLE_LABEL, Release, find_releases
from clusterfit.launch.sequence import look

from .api_server import status_body
from .object_server import CREATED, Objects, serve_objects
from .test_sequence import put_workload
from .test_submit import ACCESS, Helm, render


@pytest.fixture
def server() -> Iterator[tuple[Api, Objects]]:
    """A cluster with one release."""
    with serve_objects() as (api, objects):
        objects.install(render().manifests)
        yield api, objects


def find_release(api: Api) -> Release:
    """Return the only release, as one that Helm has installed."""
    (release,) = find_releases(api, "digits")
    return replace(release, is_helm=True)


def list_kinds(objects: Objects) -> set[str]:
    """Return the kinds, in the plural, of which there is something."""
    return {path.split("/")[-2] for path in objects.by_path}


def test_whoever_copies_files_goes_on(server: tuple[Api, Objects]) -> None:
    api, objects = server
    metadata = {**find_release(api).files_pod["metadata"], "name": "files"}
    objects.put(PODS, {"metadata": metadata, "status": {}})
    delete_release(Helm(digits_step1="deployed"), api, ACCESS, find_release(api))
    assert list_kinds(objects) == {"pods"}


def test_a_release_is_removed_where_there_is_no_operator_any_more(
    server: tuple[Api, Objects], monkeypatch: pytest.MonkeyPatch
) -> None:
    api, objects = server
    objects.remove(PYTORCHJOBS, "digits-extract")
    objects.kinds.remove("pytorchjobs")

    def answer(method: str, path: str, query: Mapping[str, str], body: Any) -> tuple[int, Any]:
        if "pytorchjobs" in path:
            return 404, b"404 page not found"  # what a server says of a kind that it does not know
        return Objects.answer(objects, method, path, query, body)

    monkeypatch.setattr(objects, "answer", answer)
    delete_release(Helm(digits_step1="deployed"), api, ACCESS, find_release(api))
    assert objects.by_path == {}


def test_what_may_not_be_deleted_is_named_and_the_release_is_found_again(
    server: tuple[Api, Objects],
) -> None:
    api, objects = server

    def refuse(method: str, path: str) -> None:
        if method == "DELETE" and "/jobs/" in path:
            objects.trouble.append(403)

    objects.look_on = refuse
    helm = Helm(digits_step1="deployed")
    with pytest.raises(NotPermittedError) as failure:
        delete_release(helm, api, ACCESS, find_release(api))
    assert str(failure.value) == (
        "release digits-step1: left jobs.batch digits-cluster, jobs.batch digits-step1-supervisor; "
        "delete jobs.batch digits-cluster in namespace team: refused (403): in trouble"
    )
    assert failure.value.exit_code == 77
    assert helm.log == []
    assert list_kinds(objects) == {"jobs", "configmaps"}

    objects.look_on = lambda _method, _path: None
    delete_release(helm, api, ACCESS, find_release(api))
    assert helm.log == ["uninstall digits-step1"]
    assert objects.by_path == {}


def test_what_admission_keeps_from_being_deleted_is_named(
    server: tuple[Api, Objects], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = 'admission webhook "keep.x" denied the request: kept'

    def answer(method: str, path: str, query: Mapping[str, str], body: Any) -> tuple[int, Any]:
        if method == "DELETE" and "/jobs/" in path:
            return 403, status_body(said, "Forbidden")
        return Objects.answer(objects, method, path, query, body)

    api, objects = server
    monkeypatch.setattr(objects, "answer", answer)
    with pytest.raises(RefusedError) as failure:
        delete_release(None, api, ACCESS, find_release(api))
    assert str(failure.value) == (
        "release digits-step1: left jobs.batch digits-cluster, jobs.batch digits-step1-supervisor; "
        f"delete jobs.batch digits-cluster in namespace team: {said}"
    )


def test_a_record_that_may_not_be_removed_is_a_refusal(
    server: tuple[Api, Objects], monkeypatch: pytest.MonkeyPatch
) -> None:
    def uninstall(release: str, access: Access) -> bool:
        raise read_error(
            f'Error: uninstall: Release not loaded: {release}: secrets is forbidden: User "ann" '
            'cannot list resource "secrets" in API group "" in the namespace "team"'
        )

    api, objects = server
    helm = Helm()
    monkeypatch.setattr(helm, "uninstall", uninstall)
    wanted = "^no permission: ann may not list secrets in namespace team; ask an administrator"
    with pytest.raises(NotPermittedError, match=wanted):
        delete_release(helm, api, ACCESS, find_release(api))
    assert list_kinds(objects) == {"configmaps"}


def test_what_copied_files_and_is_over_goes_with_the_release(server: tuple[Api, Objects]) -> None:
    api, objects = server
    metadata = {**find_release(api).files_pod["metadata"], "name": "files"}
    metadata["creationTimestamp"] = datetime.now(UTC).isoformat()
    objects.put(PODS, {"metadata": metadata, "status": {"phase": "Failed"}})
    delete_release(Helm(digits_step1="deployed"), api, ACCESS, find_release(api))
    assert list_kinds(objects) == {"pods"}, "somebody may be about to read it"
    objects.install(render().manifests)
    metadata["creationTimestamp"] = CREATED
    delete_release(Helm(digits_step1="deployed"), api, ACCESS, find_release(api))
    assert objects.by_path == {}


def test_the_pod_that_helm_test_has_left_goes_with_the_release(
    server: tuple[Api, Objects], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else removes it, and the release would be waited for until it is gone."""
    for name in ("GONE", "POLL"):
        monkeypatch.setattr(f"clusterfit.launch.control._{name}_SECONDS", 0)
    api, objects = server
    labels = find_release(api).files_pod["metadata"]["labels"] | {ROLE_LABEL: "test"}
    metadata = {"name": "digits-step1-test", "labels": labels}
    objects.put(PODS, {"metadata": metadata, "status": {"phase": "Succeeded"}})
    others = {"name": "other-step1-test", "labels": labels | {RELEASE_LABEL: "other-step1"}}
    objects.put(PODS, {"metadata": others, "status": {"phase": "Succeeded"}})
    delete_release(Helm(digits_step1="deployed"), api, ACCESS, find_release(api))
    assert [path.rpartition("/")[2] for path in objects.by_path] == ["other-step1-test"]


def test_a_supervisor_that_kueue_has_queued_is_stopped_by_its_workload(
    server: tuple[Api, Objects],
) -> None:
    """Kueue undoes what is done to the switch of a job that it has taken into a queue."""
    api, objects = server
    name = "digits-step1-supervisor"
    supervisor = objects.get(JOBS, name)
    supervisor["metadata"] |= {"labels": {QUEUE_LABEL: "default"}, "uid": f"uid-of-{name}"}
    put_workload(objects, name, active=True)
    cancel_run(api, [find_release(api)], "ann")
    assert objects.get(WORKLOADS, "workload")["spec"]["active"] is False
    assert not objects.get(JOBS, name)["spec"].get("suspend")
    resume_run(api, [find_release(api)])
    assert objects.get(WORKLOADS, "workload")["spec"]["active"] is True


def test_what_kueue_has_taken_no_notice_of_can_be_cancelled(server: tuple[Api, Objects]) -> None:
    """Its integration is off, most likely, and somebody wants to be rid of the run."""
    api, objects = server
    release = find_release(api)
    release = replace(release, plan=replace(release.plan, gang="kueue", queue="gpu"))
    extract = objects.get(PYTORCHJOBS, "digits-extract")
    extract["spec"]["runPolicy"]["suspend"] = True
    extract["metadata"] |= {"labels": {QUEUE_LABEL: "gpu"}}
    assert cancel_run(api, [release], "ann") == [release.plan.stages[0]]
    (state, _) = (view.state for view in look(api, release.plan))
    assert (state.phase, state.stopped_by) == (Phase.SUSPENDED, "ann")
    # Nor must it start when Kueue takes notice of it later.
    extract = objects.get(PYTORCHJOBS, "digits-extract")
    assert extract["metadata"]["labels"][QUEUE_LABEL] == "clusterfit-held"
    assert resume_run(api, [release]) == [release.plan.stages[0]]
    (state, _) = (view.state for view in look(api, release.plan))
    assert state.phase is Phase.QUEUED


def test_a_held_stage_that_was_cancelled_waits_for_its_turn_again(
    server: tuple[Api, Objects],
) -> None:
    api, objects = server
    release = find_release(api)
    plan = replace(release.plan, gang="kueue", queue="gpu")
    release = replace(release, plan=plan)
    cluster = objects.get(JOBS, "digits-cluster")
    cluster["metadata"]["labels"] = {QUEUE_LABEL: "clusterfit-held"}
    suspend_stage(api, plan, plan.stages[1], "ann", "clusterfit suspend")
    resume_stage(api, plan, plan.stages[1])
    (_, view) = look(api, plan)
    assert view.state.phase is Phase.HELD


def test_between_suspend_and_resume_nothing_looks_given_up_by_kueue(
    server: tuple[Api, Objects],
) -> None:
    """Whoever waits for the run would take it for lost."""
    api, objects = server
    release = find_release(api)
    plan = replace(release.plan, gang="kueue", queue="gpu")
    extract = objects.get(PYTORCHJOBS, "digits-extract")
    extract["spec"]["runPolicy"]["suspend"] = True
    extract["metadata"] |= {"labels": {QUEUE_LABEL: "gpu"}, "uid": "uid-of-digits-extract"}
    put_workload(objects, "digits-extract", active=True)
    seen: list[JobState] = []

    def look_on(_method: str, _path: str) -> None:
        job = objects.get(PYTORCHJOBS, "digits-extract")
        state = read_state(plan, plan.stages[0], job)
        seen.append(see_workload(state, objects.get(WORKLOADS, "workload")))

    objects.look_on = look_on
    suspend_stage(api, plan, plan.stages[0], "ann", "clusterfit suspend")
    resume_stage(api, plan, plan.stages[0])
    assert {state.phase for state in seen} == {Phase.QUEUED, Phase.SUSPENDED}
    assert not any(state.is_given_up for state in seen)


@pytest.mark.parametrize("why", ["gone", "forbidden"])
def test_a_queued_supervisor_is_stopped_where_kueue_cannot_be_asked(
    server: tuple[Api, Objects], why: str
) -> None:
    api, objects = server
    supervisor = objects.get(JOBS, "digits-step1-supervisor")
    supervisor["metadata"] |= {"labels": {QUEUE_LABEL: "default"}}
    if why == "gone":
        objects.kinds.remove("workloads")
    else:
        objects.look_on = lambda _method, path: (
            objects.trouble.append(403) if "/workloads" in path else None
        )
    cancel_run(api, [find_release(api)], "ann")
    assert objects.get(JOBS, "digits-step1-supervisor")["spec"]["suspend"] is True
