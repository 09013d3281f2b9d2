"""Bring a rendered release into the cluster: once, whole, or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from clusterfit.launch.access import Access
from clusterfit.launch.admission import try_object
from clusterfit.launch.api import Api, find_resource
from clusterfit.launch.charts import RUN_CHART, find_chart
from clusterfit.launch.control import Say, delete_release
from clusterfit.launch.failures import AlreadyExistsError, ClusterError, explain_text
from clusterfit.launch.helm import Helm, HelmError, NameTakenError, format_command
from clusterfit.launch.jobs import read_time
from clusterfit.launch.plan import RELEASE_LABEL, Release, list_releases
from clusterfit.launch.pod_quota import EXCEEDED_QUOTA
from clusterfit.launch.prerequisites import check_cluster
from clusterfit.launch.render import Rendered
from clusterfit.launch.sequence import (
    INSTALL_SECONDS,
    find_absent,
    find_failed,
    find_given_up,
    look_closely,
)


class Outcome(StrEnum):
    """What became of a submission."""

    SUBMITTED = "submitted"
    UNCHANGED = "unchanged"
    """The very same is there, at work or done; nothing was done."""
    STUCK = "stuck"
    """The very same is there and will not go on by itself; nothing was done."""
    REPLACED = "replaced"


@dataclass(frozen=True, slots=True)
class Submission:
    """What became of a submission, and where the run is now."""

    outcome: Outcome
    release: str
    """That holds the stages: the new one, or the one that was there, which Helm may call otherwise
    than a new one."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a submission comes to, given what is there."""

    outcome: Outcome
    release: str
    """The one that is there, where the very same is; else the one to be installed."""
    removed: list[Release]
    """Releases that are removed first."""

    @property
    def installs(self) -> bool:
        """Whether anything is done at all."""
        return self.outcome in (Outcome.SUBMITTED, Outcome.REPLACED)


def submit(
    helm: Helm,
    api: Api,
    access: Access,
    rendered: Rendered,
    replace: bool = False,
    say: Say = lambda _: None,
) -> Submission:
    """Install a release, unless the same is there; `replace` runs the same again if it is stuck.

    Args:
        helm: Installs and removes.
        api: The namespace.
        access: The same as options, for Helm and for advice.
        rendered: What is to be there.
        replace: Remove what is in the way.
        say: Is told what removing waits for.

    Raises:
        AlreadyExistsError: Something else is there, and `replace` was not asked for; or what is
            there is no submission of this run.
        ClusterError: The cluster lacks something, or refuses an object; nothing is left behind
            but what it names, which could not be removed.
    """
    decision = decide(helm, api, access, rendered, replace)
    submission = Submission(decision.outcome, decision.release)
    if not decision.installs:
        return submission
    check_cluster(api, access, rendered)
    if decision.removed:
        check_admission(api, rendered)
    for release in decision.removed:
        try:
            delete_release(helm, api, access, release, say)
        except ClusterError as error:
            raise type(error)(f"{error}; nothing was installed in its place") from None
    try:
        helm.install(find_chart(RUN_CHART), rendered.release, access, rendered.run.dump())
    except NameTakenError:
        raise AlreadyExistsError(
            f"release {rendered.release}: somebody else has just installed it; see `clusterfit "
            f"status {rendered.run.name}{access.as_options()}`"
        ) from None
    except HelmError as error:
        left = remove_remains(helm, api, access, rendered)
        refusal = explain_text(str(error), f"release {rendered.release}: not installed")
        if left:
            refusal = type(refusal)(
                *refusal.faults, f"left behind, could not be removed: {', '.join(left)}"
            )
        raise refusal from None
    return submission


def check_admission(api: Api, rendered: Rendered) -> None:
    """Let the server judge every object before what is there is removed for them.

    Raises:
        ClusterError: One is refused.
    """
    for manifest in rendered.manifests:
        try:
            try_object(api, find_resource(manifest), manifest)
        except ClusterError as error:
            if EXCEEDED_QUOTA not in str(error):  # there will be room
                raise type(error)(f"{error}; nothing was removed") from None


def decide(helm: Helm, api: Api, access: Access, rendered: Rendered, replace: bool) -> Decision:
    """Hold a submission against what is there.

    Raises:
        AlreadyExistsError: It may not be installed beside what is there, nor in its place.
    """
    in_the_way = find_conflicts(api, rendered)
    is_there = len(in_the_way) == 1 and _is_same(in_the_way[0], rendered)
    if is_there and not _is_stuck(api, in_the_way[0]):
        return Decision(Outcome.UNCHANGED, in_the_way[0].plan.release, [])
    if is_there and not replace:
        return Decision(Outcome.STUCK, in_the_way[0].plan.release, [])
    if in_the_way and not replace:
        names = ", ".join(release.plan.release for release in in_the_way)
        stages = ", ".join(stage.stage for item in in_the_way for stage in item.plan.stages)
        raise AlreadyExistsError(
            f"run {rendered.run.name}: release {names} ({stages}) is there with other content; "
            "--replace removes it first (results stay), or choose another `name`"
        )
    check_name(helm, access, rendered, in_the_way)
    outcome = Outcome.REPLACED if in_the_way else Outcome.SUBMITTED
    return Decision(outcome, rendered.release, in_the_way)


def find_conflicts(api: Api, rendered: Rendered) -> list[Release]:
    """Return the releases of this run that hold one of the stages to be submitted, or the name."""
    stages = set(rendered.run.stages)
    return [
        release
        for release in list_releases(api, rendered.run.name)
        if stages & {stage.stage for stage in release.plan.stages}
        or release.plan.release == rendered.release
    ]


def check_name(
    helm: Helm, access: Access, rendered: Rendered, to_be_removed: Iterable[Release]
) -> None:
    """See that the release's name is free, or will be.

    Raises:
        AlreadyExistsError: Helm knows a release of that name which is no submission of this run.
    """
    if rendered.release in {item.plan.release for item in to_be_removed if item.is_helm}:
        return
    try:
        status = helm.find_status(rendered.release, access)
    except HelmError as error:
        raise explain_text(str(error), f"release {rendered.release}") from None
    if status:
        raise AlreadyExistsError(
            f"release {rendered.release} exists ({status}), but not as a submission of run "
            f"{rendered.run.name}; choose another `name`, or see whose it is and remove it: "
            f"{format_command(access, 'uninstall', rendered.release)}"
        )


def remove_remains(helm: Helm, api: Api, access: Access, rendered: Rendered) -> list[str]:
    """Remove what a failed install of ours has left: Helm's record, and objects it had created.

    Helm makes the record first, and marks it as failed, where it still can. Where there is no such
    record, nothing was created; one in another state is somebody else's, who was faster. Return
    what is left.
    """
    left: list[str] = []
    try:
        if helm.find_status(rendered.release, access) not in ("failed", "pending-install"):
            return left
    except HelmError:
        return [f"whatever there is of release {rendered.release}, which cannot be looked at"]
    try:
        helm.uninstall(rendered.release, access)
    except HelmError:
        left.append(f"Helm's record of {rendered.release}")
    for manifest in reversed(rendered.manifests):
        resource, name = find_resource(manifest), manifest["metadata"]["name"]
        try:
            found = api.find(resource, name)
        except ClusterError:
            continue  # what may not be read was not created
        labels = (found or {}).get("metadata", {}).get("labels", {})
        if labels.get(RELEASE_LABEL) != rendered.release:
            continue
        try:
            api.delete(resource, name)
        except ClusterError:
            left.append(f"{resource} {name}")
    return left


def _is_same(release: Release, rendered: Rendered) -> bool:
    return release.content == rendered.content and bool(release.content)


def _is_stuck(api: Api, release: Release) -> bool:
    """Whether it has failed, was stopped for good, or lacks a job, as after a killed install."""
    views = list(look_closely(api, release.plan))
    age_seconds = (api.now() - read_time(release.created)).total_seconds()
    lacks_a_job = age_seconds > INSTALL_SECONDS and find_absent(views) is not None
    return lacks_a_job or find_failed(views) is not None or find_given_up(views) is not None
