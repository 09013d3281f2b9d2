"""Let the cluster judge a submission, admission included, and keep nothing of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from clusterfit.launch.access import Access
from clusterfit.launch.admission import try_object
from clusterfit.launch.api import PODS, Api, Resource, find_resource
from clusterfit.launch.failures import ClusterError
from clusterfit.launch.helm import Helm
from clusterfit.launch.manifests import Manifest
from clusterfit.launch.plan import ROLE_LABEL
from clusterfit.launch.pod_quota import (
    ALIVE,
    EXCEEDED_QUOTA,
    KEPT,
    Pods,
    find_excess,
    select_quotas,
)
from clusterfit.launch.prerequisites import check_cluster
from clusterfit.launch.render import Rendered
from clusterfit.launch.submit import decide


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
    quotas = select_quotas(api)
    fault = _judge_release(helm, api, access, rendered, replace, quotas)
    yield Verdict("Release", rendered.release, fault)
    supervisor = next(filter(_is_supervisor, rendered.manifests), None)
    for manifest in rendered.manifests:
        fault = _judge(api, find_resource(manifest), manifest)
        if not fault and _has_pods(manifest):
            fault = _judge_pods(api, manifest, supervisor, quotas)
        yield Verdict(manifest["kind"], manifest["metadata"]["name"], fault)


def _judge_release(
    helm: Helm,
    api: Api,
    access: Access,
    rendered: Rendered,
    replace: bool,
    quotas: Iterable[Manifest],
) -> str:
    try:
        if not decide(helm, api, access, rendered, replace).installs:
            return ""
        check_cluster(api, access, rendered)
    except ClusterError as error:
        return "; ".join(error.faults)
    fault = find_excess(quotas, KEPT, map(_read_pods, filter(_has_pods, rendered.manifests)))
    return f"all its pods: {fault}" if fault else ""


def _judge(api: Api, resource: Resource, manifest: Manifest) -> str:
    try:
        try_object(api, resource, manifest)
    except ClusterError as error:
        return str(error)
    return ""


def _judge_pods(
    api: Api, job: Manifest, supervisor: Manifest | None, quotas: Iterable[Manifest]
) -> str:
    """Judge what a job makes: Pod Security and limits look at each pod, quotas at all of them."""
    pods = [_read_pods(job)]
    fault = _judge(api, PODS, _make_pod(job, pods[0][1]))
    if fault:
        return f"its pods: {fault}"
    if supervisor is not None and job is not supervisor:
        pods.append(_read_pods(supervisor))  # beside it
    fault = find_excess(quotas, ALIVE, pods) or _judge_sum(api, job, pods)
    return f"its pods together: {fault}" if fault else ""


def _judge_sum(api: Api, job: Manifest, pods: list[Pods]) -> str:
    """Try one pod with what all of them ask for: the server adds up, in its own units."""
    containers = [item for count, pod in pods for item in pod["spec"]["containers"] * count]
    together = [
        {key: val for key, val in container.items() if key != "volumeMounts"}
        | {"name": f"container-{position}"}
        for position, container in enumerate(containers)
    ]
    _, pod = pods[0]
    spec = {key: val for key, val in pod["spec"].items() if key != "volumes"}
    fault = _judge(api, PODS, _make_pod(job, {**pod, "spec": {**spec, "containers": together}}))
    # A limit of a pod's size is none of theirs.
    return fault[fault.index(EXCEEDED_QUOTA) :] if EXCEEDED_QUOTA in fault else ""


def _is_supervisor(manifest: Manifest) -> bool:
    labels = manifest["metadata"].get("labels", {})
    return bool(manifest["kind"] == "Job" and labels.get(ROLE_LABEL) == "supervisor")


def _has_pods(manifest: Manifest) -> bool:
    return manifest["kind"] in ("PyTorchJob", "Job")


def _read_pods(job: Manifest) -> Pods:
    """Return how many pods a job makes, and their template."""
    if job["kind"] == "PyTorchJob":
        worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
        return worker["replicas"], worker["template"]
    return job["spec"]["parallelism"], job["spec"]["template"]


def _make_pod(job: Manifest, template: Manifest) -> Manifest:
    metadata = {"name": f"{job['metadata']['name']}-pod", **template["metadata"]}
    spec = {"restartPolicy": "Never", **template["spec"]}
    # The account does not exist yet, and the server looks for it.
    spec.pop("serviceAccountName", None)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
