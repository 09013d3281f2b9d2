"""Another value for each setting of `platform`, and where a worker's job must then have it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from clusterfit.launch.helm import Values
from clusterfit.launch.manifests import Manifest

Where = dict[str, Any]
"""Words that lead from `view_job` to a value, and that value; None where nothing may stand."""


@dataclass(frozen=True, slots=True)
class Change:
    """One setting's other value."""

    value: Any
    context: Values = field(default_factory=dict)
    """What else of `platform` must be set for it to mean anything."""
    both: Where = field(default_factory=dict)
    """What extract's PyTorchJob and cluster's Job then have."""
    gang: Where = field(default_factory=dict)
    """What only extract's PyTorchJob has."""
    single: Where = field(default_factory=dict)
    """What only cluster's Job has."""


KUEUE: Values = {"queue": {"gang": "kueue", "name": "gpu"}}
REPOSITORY: Values = {"image": {"repository": "registry.example:5000/team/clusterfit"}}
REPLICAS = "job spec pytorchReplicaSpecs Worker replicas"
SCHEDULING = "job spec runPolicy schedulingPolicy"
QUEUE_LABEL = "job metadata labels kueue.x-k8s.io/queue-name"
TOPOLOGY = "template metadata annotations kueue.x-k8s.io/podset-{}-topology"
RACK = "topology.kubernetes.io/rack"
DIGEST = "sha256:" + "0a" * 32
TOLERATION = {"key": "gpu", "operator": "Exists"}
AFFINITY: Values = {"podAntiAffinity": {}}
SCRATCH: Values = {"name": "scratch", "mountPath": "/scratch", "readOnly": True}

# Of two stages, extract and cluster, on 16 GPUs of 8 a node: two pods and one.
CHANGES: dict[str, Change] = {
    "gpus": Change(
        32, gang={REPLICAS: 4}, single={"container resources limits nvidia.com/gpu": "8"}
    ),
    "gpusPerNode": Change(
        4,
        both={"container resources limits nvidia.com/gpu": "4"},
        gang={REPLICAS: 4, "job spec nprocPerNode": "4"},
        single={"env PET_NPROC_PER_NODE value": "4"},
    ),
    "gpuResource": Change(
        "amd.com/gpu",
        both={
            "container resources limits amd.com/gpu": "8",
            "container resources requests amd.com/gpu": "8",
            "container resources limits nvidia.com/gpu": None,
        },
    ),
    "nodesWithoutGpus": Change(3, {"gpus": 0}, gang={REPLICAS: 3}),
    "processesPerNode": Change(
        2, gang={"job spec nprocPerNode": "2"}, single={"env PET_NPROC_PER_NODE value": "2"}
    ),
    "cpusPerNode": Change(4.5, both={"container resources requests cpu": "4500m"}),
    "memoryGibPerNode": Change(
        100,
        both={
            "container resources requests memory": "100Gi",
            "container resources limits memory": "100Gi",
        },
    ),
    "shmGibPerNode": Change(1.5, both={"volumes shm emptyDir sizeLimit": "1536Mi"}),
    "extraResources": Change(
        {"rdma/ib": "1"},
        both={
            "container resources requests rdma/ib": "1",
            "container resources limits rdma/ib": "1",
        },
    ),
    "nodeSelector": Change({"gpu": "h100"}, both={"pod nodeSelector": {"gpu": "h100"}}),
    "tolerations": Change([TOLERATION], both={"pod tolerations": [TOLERATION]}),
    "affinity": Change(AFFINITY, both={"pod affinity": AFFINITY}),
    "deadlineSeconds": Change(
        3600, KUEUE, both={"job metadata labels kueue.x-k8s.io/max-exec-time-seconds": "3600"}
    ),
    "startDeadlineSeconds": Change(60),
    "stages": Change({"extract": {"gpus": 8}}, gang={REPLICAS: 1}),
    "image.repository": Change(
        "registry.example/other",
        {"image": {"tag": "v7"}},
        both={"container image": "registry.example/other:v7"},
    ),
    "image.tag": Change(
        "v7", REPOSITORY, both={"container image": "registry.example:5000/team/clusterfit:v7"}
    ),
    "image.digest": Change(
        DIGEST,
        REPOSITORY,
        both={"container image": f"registry.example:5000/team/clusterfit@{DIGEST}"},
    ),
    "image.pullPolicy": Change("Always", both={"container imagePullPolicy": "Always"}),
    "image.pullSecrets": Change(
        ["registry"], both={"pod imagePullSecrets": [{"name": "registry"}]}
    ),
    "storage.claim": Change(
        "shared",
        both={
            "volumes storage persistentVolumeClaim claimName": "shared",
            "mounts /storage name": "storage",
        },
    ),
    "storage.subPath": Change("team/a", both={"mounts /storage subPath": "team/a"}),
    "data.claim": Change(
        "images",
        both={
            "volumes data persistentVolumeClaim": {"claimName": "images", "readOnly": True},
            "mounts /data": {"name": "data", "mountPath": "/data", "readOnly": True},
        },
    ),
    "data.subPath": Change("in1k", both={"mounts /data subPath": "in1k"}),
    "queue.gang": Change("volcano", gang={SCHEDULING: {"minAvailable": 2}}),
    "queue.name": Change(
        "other", KUEUE, gang={QUEUE_LABEL: "other"}, single={QUEUE_LABEL: "clusterfit-held"}
    ),
    "queue.priorityClass": Change(
        "high", KUEUE, both={"job metadata labels kueue.x-k8s.io/priority-class": "high"}
    ),
    "queue.requiredTopology": Change(RACK, KUEUE, both={TOPOLOGY.format("required"): RACK}),
    "queue.preferredTopology": Change(RACK, KUEUE, both={TOPOLOGY.format("preferred"): RACK}),
    "sequencing.mode": Change("client"),
    "sequencing.serviceAccount": Change("runner"),
    "priorityClass": Change("high", both={"pod priorityClassName": "high"}),
    "podUser.user": Change(2000, both={"pod securityContext runAsUser": 2000}),
    "podUser.group": Change(3000, both={"pod securityContext runAsGroup": 3000}),
    "podUser.fsGroup": Change(
        0,
        both={
            "pod securityContext fsGroup": None,
            "pod securityContext fsGroupChangePolicy": None,
        },
    ),
    "podUser.supplementalGroups": Change(
        [3000, 4000], both={"pod securityContext supplementalGroups": [3000, 4000]}
    ),
    "extraEnv": Change([{"name": "FOO", "value": "1"}], both={"env FOO value": "1"}),
    "nccl": Change({"NCCL_DEBUG": "INFO"}, both={"env NCCL_DEBUG value": "INFO"}),
    "extraVolumes": Change(
        [{**SCRATCH, "source": {"emptyDir": {}}}],
        both={
            "volumes scratch": {"name": "scratch", "emptyDir": {}},
            "mounts /scratch": SCRATCH,
        },
    ),
    "labels": Change(
        {"team": "vision"},
        both={"job metadata labels team": "vision", "template metadata labels team": "vision"},
    ),
    "annotations": Change(
        {"note": "mine"},
        both={
            "job metadata annotations note": "mine",
            "template metadata annotations note": "mine",
        },
    ),
    "networkPolicy": Change(True),
    "ttlSecondsAfterFinished": Change(3600),
    "overwriteToken": Change("abc", both={"container command -1": "abc"}),
}

# What no worker's job shows, and who reads it instead.
READ_BY_OTHERS = {
    "startDeadlineSeconds": "the supervisor, in plan.json",
    "sequencing.mode": "whoever looks for a supervisor",
    "sequencing.serviceAccount": "the supervisor's pod",
    "networkPolicy": "an object of its own",
    "ttlSecondsAfterFinished": "whoever sees that all stages have succeeded",
}
PLANNED_ALONE = ("startDeadlineSeconds",)


def view_job(job: Manifest) -> dict[str, Any]:
    """Return a worker's job with the parts that have names of their own, by those names."""
    spec = job["spec"]
    is_gang = job["kind"] == "PyTorchJob"
    template = (spec["pytorchReplicaSpecs"]["Worker"] if is_gang else spec)["template"]
    pod = template["spec"]
    (container,) = pod["containers"]
    return {
        "job": job,
        "template": template,
        "pod": pod,
        "container": container,
        "env": {item["name"]: item for item in container["env"]},
        "volumes": {item["name"]: item for item in pod["volumes"]},
        "mounts": {item["mountPath"]: item for item in container["volumeMounts"]},
    }


def look_up(job: Manifest, where: str) -> Any:
    """Return what stands at the end of some words; None where nothing does."""
    found: Any = view_job(job)
    for word in where.split():
        found = found[int(word)] if isinstance(found, list) else (found or {}).get(word)
    return found
