"""A release as it was meant: plan.json of its ConfigMap, which the chart writes.

What plain `helm install` created is found by it just as what `clusterfit submit` created.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from clusterfit.config.names import RUN_NAME_WANTED, is_run_name
from clusterfit.config.stages import STAGES, StageName
from clusterfit.errors import ConfigError
from clusterfit.launch.api import CONFIG_MAPS, JOBS, PYTORCHJOBS, Api, Resource, check_namespace
from clusterfit.launch.failures import NotFoundError
from clusterfit.launch.manifests import Manifest

RUN_LABEL: Final = "clusterfit.dev/run"
STAGE_LABEL: Final = "clusterfit.dev/stage"
ROLE_LABEL: Final = "app.kubernetes.io/component"
RELEASE_LABEL: Final = "app.kubernetes.io/instance"
CONTENT_ANNOTATION: Final = "clusterfit.dev/content"
"""On the ConfigMap: the digest of the values that the release was made of."""

_FORMAT_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """One stage of a release."""

    stage: StageName
    kind: str
    """`PyTorchJob` or `Job`."""
    name: str
    """Of the job."""
    nodes: int
    processes_per_node: int
    gpus_per_pod: int
    gpu_resource: str
    pods: tuple[str, ...]
    """Names of a PyTorchJob's pods by node rank; a Job's are not known before they exist."""
    deadline_seconds: int
    start_deadline_seconds: int

    @property
    def resource(self) -> Resource:
        """Where the job is found."""
        return PYTORCHJOBS if self.kind == "PyTorchJob" else JOBS

    @property
    def world_size(self) -> int:
        """Ranks of the stage."""
        return self.nodes * self.processes_per_node


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that the launcher and the supervisor need to know of a release."""

    run: str
    release: str
    namespace: str
    stages: tuple[PlannedStage, ...]
    gang: str
    """`none`, `kueue`, `volcano` or `coscheduling`."""
    queue: str
    """Name of the queue; empty: none."""
    sequencing: str
    """Who releases the later stages: `cluster` or `client`."""
    ttl_seconds: int = 0
    """How long after the release is over its stages are removed; 0: never."""

    @property
    def supervisor(self) -> str:
        """Name of the Job that takes the release through its stages in the cluster."""
        return f"{self.release}-supervisor"


@dataclass(frozen=True, slots=True)
class Release:
    """A release that exists in a namespace."""

    plan: Plan
    content: str
    """Digest of the values that it was made of."""
    created: str
    """When, in RFC 3339."""
    files_pod: Manifest
    """The pod through which its claims are reached."""
    is_helm: bool
    """Whether Helm installed it, so that Helm must remove it."""


def parse_plan(text: str) -> Plan:
    """Read plan.json.

    Raises:
        ConfigError: A newer clusterfit wrote it.
    """
    plan: dict[str, Any] = json.loads(text)
    if plan["formatVersion"] != _FORMAT_VERSION:
        raise ConfigError(
            f"plan.json: got version {plan['formatVersion']}, want {_FORMAT_VERSION}; use the "
            "clusterfit that submitted the run"
        )
    stages = tuple(
        PlannedStage(
            stage=stage["stage"],
            kind=stage["kind"],
            name=stage["name"],
            nodes=stage["nodes"],
            processes_per_node=stage["processesPerNode"],
            gpus_per_pod=stage["gpusPerPod"],
            gpu_resource=stage["gpuResource"],
            pods=tuple(stage["pods"]),
            deadline_seconds=stage["deadlineSeconds"],
            start_deadline_seconds=stage["startDeadlineSeconds"],
        )
        for stage in plan["stages"]
    )
    return Plan(
        run=plan["run"],
        release=plan["release"],
        namespace=plan["namespace"],
        stages=stages,
        gang=plan["queue"]["gang"],
        queue=plan["queue"]["name"],
        sequencing=plan["sequencing"],
        ttl_seconds=plan["ttlSecondsAfterFinished"],
    )


def list_releases(api: Api, run: str | None = None) -> list[Release]:
    """Return the releases of one run, or of all, in the pipeline's order within each run."""
    selector = f"app.kubernetes.io/name=clusterfit,{ROLE_LABEL}=config"
    if run is not None:
        selector += f",{RUN_LABEL}={run}"
    releases = [read_release(item) for item in api.select(CONFIG_MAPS, labels=selector)]
    return sorted(
        releases, key=lambda item: (item.plan.run, STAGES.index(item.plan.stages[0].stage))
    )


def find_releases(api: Api, run: str) -> list[Release]:
    """Return the releases of a run that must exist.

    Raises:
        ConfigError: No run can have this name; an empty one would select what has none.
        NotFoundError: It does not exist in this namespace, or that does not.
    """
    if not is_run_name(run):
        raise ConfigError(f"RUN: got {run!r}, want a run's name: {RUN_NAME_WANTED}")
    releases = list_releases(api, run)
    if not releases:
        others = sorted({release.plan.run for release in list_releases(api)})
        if not others:
            check_namespace(api)
        hint = f"the runs here are {', '.join(others)}" if others else "there are no runs here"
        raise NotFoundError(f"run {run}: not found in namespace {api.namespace}; {hint}")
    return releases


def read_release(config_map: Manifest) -> Release:
    """Return the release that a ConfigMap of ours describes."""
    metadata = config_map["metadata"]
    annotations = metadata.get("annotations", {})
    return Release(
        plan=parse_plan(config_map["data"]["plan.json"]),
        content=annotations.get(CONTENT_ANNOTATION, ""),
        created=metadata.get("creationTimestamp", ""),
        files_pod=json.loads(config_map["data"]["files-pod.json"]),
        is_helm="meta.helm.sh/release-name" in annotations,
    )
