"""Stop, resume and remove what was submitted. Data and results are never touched."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Final

from clusterfit.launch.access import Access
from clusterfit.launch.api import (
    CONFIG_MAPS,
    JOBS,
    PODS,
    RELEASE_RESOURCES,
    WORKLOADS,
    Api,
    Resource,
)
from clusterfit.launch.failures import (
    ClusterError,
    NoOperatorError,
    NotFoundError,
    NotPermittedError,
    RefusedError,
    explain_text,
)
from clusterfit.launch.helm import Helm, HelmError
from clusterfit.launch.jobs import (
    CANCELLED,
    QUEUE_LABEL,
    Phase,
    find_workload,
    read_time,
    resume_stage,
    suspend_stage,
)
from clusterfit.launch.manifests import Manifest
from clusterfit.launch.plan import (
    RELEASE_LABEL,
    ROLE_LABEL,
    RUN_LABEL,
    Plan,
    PlannedStage,
    Release,
)
from clusterfit.launch.pods import has_ended
from clusterfit.launch.sequence import StageView, find_next, look, look_closely

_POLL_SECONDS: Final = 1.0
_READ_SECONDS: Final = 120.0
"""Whoever has had a pod print copies of logs has read them by then."""
_GONE_SECONDS: Final = 300.0
"""Longer than a worker's grace of 120 s, and the time that kubelets take after it."""

Say = Callable[[str], None]


def suspend_run(api: Api, releases: Iterable[Release], by: str) -> list[PlannedStage]:
    """Stop the stages that run; their workers checkpoint. Return those stages."""
    suspended: list[PlannedStage] = []
    for release in releases:
        stages = _find_active(list(look(api, release.plan)))
        suspended.extend(_stop(api, release.plan, stages, by, "clusterfit suspend"))
    return suspended


def resume_run(api: Api, releases: Iterable[Release]) -> list[PlannedStage]:
    """Let suspended stages go on. Return those stages."""
    resumed = []
    for release in releases:
        _switch_supervisor(api, release, suspend=False)
        for view in look_closely(api, release.plan):
            if view.state.phase is Phase.SUSPENDED:
                resume_stage(api, release.plan, view.stage)
                resumed.append(view.stage)
    return resumed


def cancel_run(api: Api, releases: Iterable[Release], by: str) -> list[PlannedStage]:
    """Stop all pods for good, the supervisor's too, and keep every object as a record."""
    cancelled: list[PlannedStage] = []
    for release in releases:
        _switch_supervisor(api, release, suspend=True)
        views = list(look(api, release.plan))
        stages = [*_find_active(views), *_find_resumable(views)]
        cancelled.extend(_stop(api, release.plan, stages, by, CANCELLED))
    return cancelled


def delete_release(
    helm: Helm | None, api: Api, access: Access, release: Release, say: Say = lambda _: None
) -> None:
    """Remove a release and wait until its pods are gone, so that the same name can follow.

    What it is found by, its ConfigMap and Helm's record, goes last: where something of it may not
    be deleted, whoever may finds it still.

    Raises:
        NotPermittedError: Something of it may not be deleted, and is left.
        RefusedError: Admission refuses that it is deleted.
        ClusterError: Pods are still there after five minutes, or Helm cannot remove its record.
    """
    plan = release.plan
    labels = f"{RELEASE_LABEL}={plan.release},{RUN_LABEL}={plan.run}"
    # Before Helm, which says neither what it could not remove nor why.
    parts = [item for item in reversed(RELEASE_RESOURCES) if item is not CONFIG_MAPS]
    _delete_objects(api, plan.release, parts, labels)
    if release.is_helm and helm is not None:
        try:
            helm.uninstall(plan.release, access)
        except HelmError as error:
            raise explain_text(str(error), f"release {plan.release}: not removed") from None
    _delete_objects(api, plan.release, [CONFIG_MAPS], labels)  # kubectl's, or an interrupted Helm's
    # Helm leaves the pod of `helm test` behind.
    _delete_objects(api, plan.release, [PODS], f"{labels},{ROLE_LABEL}=test")
    # Whoever copies files meanwhile goes on: that pod is no part of the release, but its remains.
    for pod in api.select(PODS, labels=f"{RUN_LABEL}={plan.run},{ROLE_LABEL}=files"):
        if has_ended(pod) and _read_age(api, pod) > _READ_SECONDS:
            with contextlib.suppress(NotPermittedError, RefusedError):
                api.delete(PODS, pod["metadata"]["name"])
    labels = f"{labels},{ROLE_LABEL}!=files"
    deadline = time.monotonic() + _GONE_SECONDS
    said = -1
    while True:
        pods = [item["metadata"]["name"] for item in api.select(PODS, labels=labels)]
        if not pods:
            return
        if len(pods) != said:
            said = len(pods)
            say(f"waiting for {said} pod{'s' if said > 1 else ''} of {plan.release} to end")
        if time.monotonic() > deadline:
            raise ClusterError(
                f"release {plan.release}: removed, but pods are still ending: {', '.join(pods)}; "
                "is their node alive?"
            )
        time.sleep(_POLL_SECONDS)


def _read_age(api: Api, item: Manifest) -> float:
    """Return for how many seconds an object has existed."""
    return (api.now() - read_time(item["metadata"]["creationTimestamp"])).total_seconds()


def needs_helm(releases: Iterable[Release]) -> bool:
    """Whether Helm's own records must be removed too."""
    return any(release.is_helm for release in releases)


def _delete_objects(api: Api, release: str, resources: Iterable[Resource], labels: str) -> None:
    """Delete those objects of a release that carry the labels, as far as that is permitted.

    Raises:
        NotPermittedError: Some may not be deleted; names them, and says why the first of them.
        RefusedError: The same, and admission refuses the first of them.
    """
    left: list[str] = []
    why: NotPermittedError | RefusedError | None = None
    for resource in resources:
        try:
            items = api.select(resource, labels=labels)
        except (NotFoundError, NotPermittedError, NoOperatorError):
            continue  # whoever may not list a kind has not created any of it either
        for item in items:
            name = item["metadata"]["name"]
            try:
                api.delete(resource, name)
            except (NotPermittedError, RefusedError) as error:
                left.append(f"{resource} {name}")
                why = why or error
    if why:
        raise type(why)(f"release {release}: left {', '.join(left)}; {why}")


def _find_active(views: list[StageView]) -> list[PlannedStage]:
    """Return what is at work, and what would be in a moment: a held stage whose turn has come."""
    due = find_next(views)
    phases = (Phase.STARTING, Phase.RUNNING, Phase.QUEUED)
    return [view.stage for view in views if view.state.phase in phases or view is due]


def _find_resumable(views: list[StageView]) -> list[PlannedStage]:
    """Return what is suspended and has not been given up."""
    return [
        view.stage
        for view in views
        if view.state.phase is Phase.SUSPENDED and not view.state.is_given_up
    ]


def _stop(
    api: Api, plan: Plan, stages: list[PlannedStage], by: str, why: str
) -> list[PlannedStage]:
    for stage in stages:
        suspend_stage(api, plan, stage, by, why)
    return stages


def _switch_supervisor(api: Api, release: Release, *, suspend: bool) -> None:
    name = release.plan.supervisor
    job = api.find(JOBS, name)
    if job is None:
        return
    if job["metadata"].get("labels", {}).get(QUEUE_LABEL) and _switch_workload(api, job, suspend):
        return
    if job["spec"].get("suspend", False) is not suspend:
        api.patch(JOBS, name, {"spec": {"suspend": suspend}})


def _switch_workload(api: Api, job: Manifest, suspend: bool) -> bool:
    """Switch a job that Kueue has put in a queue: it would undo what is done to the job itself.

    Return whether that could be done: Kueue may be gone, or closed to this user.
    """
    try:
        workload = find_workload(api, job)
        if workload is None:
            return False
        api.patch(WORKLOADS, workload["metadata"]["name"], {"spec": {"active": not suspend}})
    except ClusterError:
        return False
    return True
