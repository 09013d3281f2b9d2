"""What the pods of a stage ask for, and by what they are scheduled."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Gt
from pydantic import SerializerFunctionWrapHandler, model_serializer

from clusterfit.config.platform.values import KubernetesObject, LabelValue, QualifiedName, Quantity
from clusterfit.config.section import OPERATIONAL, Section
from clusterfit.config.sections.values import NonNegativeInt, PositiveInt


class Resources(Section):
    """What the pods of a stage ask for; all of it can be overridden for one stage."""

    gpus: NonNegativeInt = 8
    """GPUs of a stage, over all its nodes; 0: none, with device: cpu."""
    gpus_per_node: PositiveInt = 8
    """GPUs of one node, at most one pod's. Above it `gpus` must be a multiple, so that pods are
    alike."""
    gpu_resource: QualifiedName = "nvidia.com/gpu"
    """What the cluster calls a GPU: also a MIG slice, or amd.com/gpu, for which the image needs a
    torch for ROCm."""
    nodes_without_gpus: PositiveInt = 1
    """Pods of a stage where gpus is 0."""
    processes_per_node: NonNegativeInt = 0
    """Processes in each pod; 0: one per GPU, or one where there are none. cluster.engine: faiss
    wants 1 in platform.stages.cluster: it drives a node's GPUs from one process."""
    cpus_per_node: Annotated[float, Gt(0)] = 64.0
    """CPU cores requested for a pod with a whole node's GPUs, or without GPUs; a pod with a part of
    the GPUs requests that part. Spare cores of the node are used too. Loading images takes about
    one per 300 ImageNet-sized JPEGs a second."""
    memory_gib_per_node: Annotated[float, Gt(0)] = 256.0
    """Memory of such a pod, request and limit, in GiB; divided likewise. shmGibPerNode is part of
    it. The cluster stage keeps its features in it, on CPUs, where they fit: 2 bytes a number with
    bfloat16, 5.2 GB for ImageNet at 2048, and one more where products are of int8; with faiss all
    of them, 4 bytes a number."""
    shm_gib_per_node: Annotated[float, Gt(0)] = 64.0
    """Shared memory of such a pod in GiB; divided likewise. Loaders and NCCL pass data in it."""
    extra_resources: dict[QualifiedName, Quantity] = {}
    """More resources of each pod, as requests and limits: `rdma/ib: "1"`."""
    node_selector: dict[QualifiedName, LabelValue] = {}
    """Labels that a node must have. Of those set for all stages, `kubernetes.io/arch` and
    `kubernetes.io/os` hold for the pods of the supervisor, of `put` and `get`, and of `helm test`
    too."""
    tolerations: tuple[KubernetesObject, ...] = ()
    """Kubernetes' own tolerations, for tainted GPU nodes."""
    affinity: KubernetesObject = {}
    """Kubernetes' own affinity."""
    deadline_seconds: Annotated[NonNegativeInt, OPERATIONAL] = 0
    """Longest time that a stage may take from its start, waiting for nodes included; then it is
    suspended and can be resumed. Under Kueue only the time admitted counts. 0: no limit."""
    start_deadline_seconds: Annotated[NonNegativeInt, OPERATIONAL] = 1800
    """Longest time until all pods of a stage run; then it is suspended, so that it does not hold
    GPUs while it waits for others. Under Kueue it counts from the admission, and the stage is
    ended. With a PodGroup the scheduler starts none before all. 0: no limit."""

    @property
    def nodes(self) -> int:
        """Pods of the stage."""
        if not self.gpus:
            return self.nodes_without_gpus
        return max(1, self.gpus // self.gpus_per_node)

    @property
    def gpus_per_pod(self) -> int:
        """GPUs that one pod asks for."""
        return min(self.gpus, self.gpus_per_node)

    @property
    def processes(self) -> int:
        """Processes in one pod."""
        return self.processes_per_node or max(1, self.gpus_per_pod)

    @property
    def node_fraction(self) -> float:
        """What one pod asks for of a node's CPUs and memory: as much as of its GPUs."""
        return self.gpus_per_pod / self.gpus_per_node if self.gpus else 1.0

    def check(self) -> None:
        """Raise ValueError where the settings of one stage contradict each other."""
        if self.gpus > self.gpus_per_node and self.gpus % self.gpus_per_node:
            below = self.gpus - self.gpus % self.gpus_per_node
            raise ValueError(
                f"gpus: got {self.gpus} on nodes of {self.gpus_per_node}, want a multiple; the "
                f"nearest are {below} and {below + self.gpus_per_node}"
            )
        if self.shm_gib_per_node > self.memory_gib_per_node:
            raise ValueError(
                f"shmGibPerNode: got {self.shm_gib_per_node:g}, want at most memoryGibPerNode "
                f"({self.memory_gib_per_node:g}), which it is part of"
            )
        if self.gpu_resource in self.extra_resources:
            raise ValueError(f"extraResources: {self.gpu_resource} is what gpus asks for; leave it")


class StageOverride(Resources):
    """What one stage asks for instead. Only what is given counts; a map replaces a map."""

    @model_serializer(mode="wrap")
    def _only_what_is_given(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        given = {
            type(self).model_fields[name].serialization_alias or name
            for name in self.model_fields_set
        } | self.model_fields_set
        return {key: value for key, value in serialize(self).items() if key in given}
