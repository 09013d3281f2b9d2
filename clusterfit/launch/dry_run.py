"""Let the cluster judge a submission, admission included, and keep nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from clusterfit.launch.access import Access
from clusterfit.launch.api import PODS, Api, Resource, find_resource
from clusterfit.launch.failures import AlreadyExistsError, ClusterError
from clusterfit.launch.helm import Helm
from clusterfit.launch.manifests import Manifest
from clusterfit.launch.plan import ROLE_LABEL
from clusterfit.launch.prerequisites import check_cluster
from clusterfit.launch.render import Rendered
from clusterfit.launch.submit import decide

_QUOTA = "exceeded quota"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of the release, or of one of its objects."""

    kind: str
    name: str
    fault: str
    """Why it is refused; empty: it would be accepted."""


def dry_run(
    helm: Helm, api: Api, access: Access, rendered: Rendered, replace: bool = False
) -> Iterator[Verdict]:
    """Yield a verdict on the release as a whole, then one on each object and the pods it makes."""
    yield Verdict("Release", rendered.release, _judge_release(helm, api, access, rendered, replace))
    supervisor = next(filter(_is_supervisor, rendered.manifests), None)
    for manifest in rendered.manifests:
        fault = _judge(api, find_resource(manifest), manifest)
        if not fault and manifest["kind"] in ("PyTorchJob", "Job"):
            fault = _judge_pods(api, manifest, supervisor)
        yield Verdict(manifest["kind"], manifest["metadata"]["name"], fault)


def _judge_release(helm: Helm, api: Api, access: Access, rendered: Rendered, replace: bool) -> str:
    try:
        if decide(helm, api, access, rendered, replace).installs:
            check_cluster(api, rendered)
    except ClusterError as error:
        return "; ".join(error.faults)
    return ""


def _judge(api: Api, resource: Resource, manifest: Manifest) -> str:
    try:
        api.create(resource, manifest, dry_run=True)
    except AlreadyExistsError:
        return ""  # admission was passed before the name was looked at
    except ClusterError as error:
        return str(error)
    return ""


def _judge_pods(api: Api, job: Manifest, supervisor: Manifest | None) -> str:
    """Judge what a job makes: Pod Security and limits look at each pod, quotas at all of them."""
    count, pod = _read_pods(job)
    fault = _judge(api, PODS, _make_pod(job, pod))
    if fault:
        return f"its pods: {fault}"
    containers = pod["spec"]["containers"] * count
    if supervisor is not None and job is not supervisor:
        containers = [*containers, *_read_pods(supervisor)[1]["spec"]["containers"]]  # beside it
    # One pod with what all of them ask for: the server adds up, in its own units.
    together = [
        {key: val for key, val in container.items() if key != "volumeMounts"}
        | {"name": f"container-{position}"}
        for position, container in enumerate(containers)
    ]
    spec = {key: val for key, val in pod["spec"].items() if key != "volumes"}
    fault = _judge(api, PODS, _make_pod(job, {**pod, "spec": {**spec, "containers": together}}))
    # A limit of a pod's size is none of theirs.
    return f"its pods together: {fault[fault.index(_QUOTA) :]}" if _QUOTA in fault else ""


def _is_supervisor(manifest: Manifest) -> bool:
    labels = manifest["metadata"].get("labels", {})
    return bool(manifest["kind"] == "Job" and labels.get(ROLE_LABEL) == "supervisor")


def _read_pods(job: Manifest) -> tuple[int, dict[str, Any]]:
    """Return how many pods a job makes, and their template."""
    if job["kind"] == "PyTorchJob":
        worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
        return worker["replicas"], worker["template"]
    return job["spec"]["parallelism"], job["spec"]["template"]


def _make_pod(job: Manifest, template: dict[str, Any]) -> Manifest:
    metadata = {"name": f"{job['metadata']['name']}-pod", **template["metadata"]}
    spec = {"restartPolicy": "Never", **template["spec"]}
    # The account does not exist yet, and the server looks for it.
    spec.pop("serviceAccountName", None)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
