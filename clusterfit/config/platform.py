"""What Kubernetes needs of a run file: the `platform` section, which never enters a container.

A pod stands for a node: `gpusPerNode`, `cpusPerNode` and the like are what one pod asks for, and
the number of pods follows from `gpus`. Kubernetes' own words are kept where the cluster reads them
(tolerations, affinity, env, volumes); their content is checked on the rendered objects.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, Self

from annotated_types import Ge, Gt, Le
from pydantic import (
    JsonValue,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from clusterfit.config.section import OPERATIONAL, Section, Wanted
from clusterfit.config.stages import STAGES, StageName

_DNS_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_DNS_NAME = rf"{_DNS_LABEL}(\.{_DNS_LABEL})*"

DnsName = Annotated[
    str,
    StringConstraints(pattern=rf"^{_DNS_NAME}$", max_length=253),
    Wanted("the name of an object: lower-case letters, digits, `-` and `.`"),
]
"""The name of an object of Kubernetes."""
OptionalDnsName = Annotated[
    str,
    StringConstraints(pattern=rf"^({_DNS_NAME})?$", max_length=253),
    Wanted("the name of an object: lower-case letters, digits, `-` and `.`; or nothing"),
]
"""The same; empty where it is not given."""
QualifiedName = Annotated[
    str,
    StringConstraints(
        pattern=rf"^({_DNS_NAME}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?$",
        max_length=317,
    ),
    Wanted("a name like nvidia.com/gpu: a domain, `/`, letters, digits, `-`, `_` and `.`"),
]
"""A key of a label or annotation, or the name of a resource: `nvidia.com/gpu`."""
OptionalTopologyLevel = Annotated[
    str,
    StringConstraints(pattern=rf"^({_DNS_NAME}(/[-A-Za-z0-9_.]+)?)?$", max_length=317),
    Wanted("the key of a node label, or nothing"),
]
"""A label of nodes that names a level: `topology.kubernetes.io/rack`; empty: none."""
LabelValue = Annotated[
    str,
    StringConstraints(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"),
    Wanted("at most 63 letters, digits, `-`, `_` and `.`, no line end"),
]
Quantity = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"),
    Wanted('an amount in quotes, like "1", "500m" or "16Gi"'),
]
"""An amount as Kubernetes writes it: `1`, `500m`, `16Gi`."""
EnvName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=253),
    Wanted("letters, digits and `_`, no digit first"),
]
NcclName = Annotated[
    str, StringConstraints(pattern=r"^NCCL_[A-Z0-9_]+$"), Wanted("a variable of NCCL's: NCCL_...")
]
CapabilityName = Annotated[
    str, StringConstraints(pattern=r"^[A-Z][A-Z_]*$"), Wanted("its name without CAP_: IPC_LOCK")
]
UserId = Annotated[int, Ge(1), Le(2**31 - 1)]
PositiveInt = Annotated[int, Gt(0)]
NonNegativeInt = Annotated[int, Ge(0)]
KubernetesObject = dict[str, JsonValue]

RESERVED_LABEL_PREFIXES: Final = (
    "clusterfit.dev/", "app.kubernetes.io/", "helm.sh/", "training.kubeflow.org/",
    "kueue.x-k8s.io/",
)  # fmt: skip
"""Whose labels and annotations the chart, the operator and Kueue read back."""

RESERVED_ENV: Final = (
    "PET_*", "TORCHELASTIC_*", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "RANK", "LOCAL_RANK",
    "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK", "ROLE_RANK",
    "PYTHONUNBUFFERED", "HOME", "TMPDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR",
)  # fmt: skip
"""Variables that the chart, the operator or torchrun set; `*` stands for any ending."""

_DATA_FOLDER: Final = "data"

RESERVED_VOLUMES: Final = ("tmp", "cache", "shm", "config", "data", "storage")
"""Names of the volumes that every pod has."""


class Image(Section):
    """The one image that every stage and the supervisor run."""

    repository: Annotated[
        str,
        StringConstraints(
            pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$",
            max_length=255,
        ),
        Wanted("a lower-case image name without tag and spaces, like registry.example/clusterfit"),
    ] = "ghcr.io/clusterfit/clusterfit"
    """Registry and name, without a tag. The default is a placeholder: set it to where you have
    pushed the image that the Dockerfile builds."""
    tag: Annotated[
        str,
        StringConstraints(pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$"),
        Wanted("letters, digits, `-`, `_` and `.`"),
    ] = ""
    """Its tag; empty: the chart's version, unless a digest is given."""
    digest: Annotated[
        str,
        StringConstraints(pattern=r"^(sha256:[0-9a-f]{64})?$"),
        Wanted("sha256: and 64 hexadecimal digits"),
    ] = ""
    """`sha256:...` pins the very image, whatever the tag says; empty: the tag decides."""
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """When a node asks the registry. `Always` costs a round trip for each pod."""
    pull_secrets: tuple[DnsName, ...] = ()
    """Secrets of the namespace that hold the registry's credentials."""


class Volume(Section):
    """A claim and the folder of it that is mounted."""

    claim: OptionalDnsName = ""
    """Name of the PersistentVolumeClaim."""
    sub_path: Annotated[
        str,
        StringConstraints(pattern=r"^([^/\x00-\x1f][^\x00-\x1f]*)?$", max_length=1024),
        Wanted("a folder below the claim's root, so without `/` in front"),
    ] = ""
    """Folder of the claim that becomes the root; empty: all of it, but for data on the storage
    claim its folder `data`. It must not hold `..`."""

    @model_validator(mode="after")
    def _stays_inside(self) -> Self:
        if ".." in self.sub_path.split("/"):
            raise ValueError(f"subPath must not hold .., got {self.sub_path!r}")
        return self


class StorageVolume(Volume):
    """The shared claim: weights are read from it, runs are written to it."""

    claim: DnsName = "clusterfit"
    """Name of a ReadWriteMany claim; the chart clusterfit-storage makes one of this name."""


class Queue(Section):
    """Who decides when a stage starts, and that its pods start together."""

    gang: Literal["none", "kueue", "volcano", "coscheduling"] = "none"
    """`kueue`: each stage waits suspended in the queue until all its pods fit. `volcano` and
    `coscheduling`: the training operator makes a PodGroup of each distributed stage, which it
    must have been started for (--gang-scheduler-name). `none`: pods start one by one, and
    startDeadlineSeconds bounds how long a part of them may hold GPUs."""
    name: OptionalDnsName = ""
    """With kueue: the LocalQueue; needed. With volcano: the Queue; empty: its default."""
    priority_class: OptionalDnsName = ""
    """With kueue: the WorkloadPriorityClass; empty: none."""
    required_topology: OptionalTopologyLevel = ""
    """With kueue: all pods of a stage inside one domain of this level (a node label), or not at
    all; empty: anywhere."""
    preferred_topology: OptionalTopologyLevel = ""
    """With kueue: the same as a wish; empty: none."""

    @model_validator(mode="after")
    def _settings_reach_somebody(self) -> Self:
        if self.gang == "kueue" and not self.name:
            raise ValueError("gang: kueue needs name, a LocalQueue of the namespace")
        if self.gang in ("none", "coscheduling") and self.name:
            raise ValueError(
                f"name has no effect with gang: {self.gang}; set gang: kueue or gang: volcano"
            )
        if self.gang != "kueue" and (
            self.priority_class or self.required_topology or self.preferred_topology
        ):
            raise ValueError(
                "priorityClass, requiredTopology and preferredTopology need gang: kueue"
            )
        if self.required_topology and self.preferred_topology:
            raise ValueError("requiredTopology and preferredTopology exclude each other")
        return self


class Sequencing(Section):
    """Who starts a stage when the one before it has succeeded, and stops one that gets nowhere."""

    mode: Literal["cluster", "client"] = "cluster"
    """`cluster`: a small supervisor Job of the release, so nobody has to stay connected. `client`:
    whoever runs `clusterfit submit --follow` or `clusterfit wait`; nothing bounds a stage then."""
    service_account: OptionalDnsName = ""
    """Account of the supervisor, made by an administrator; empty: the release makes one, with a
    Role for exactly its own jobs, which needs the right to create Roles."""


class PodUser(Section):
    """Whom the processes run as. A pod is never root."""

    user: UserId = 1000
    """Numeric user; on shared file systems this is who owns the files."""
    group: UserId = 1000
    """Numeric primary group."""
    fs_group: NonNegativeInt = 1000
    """Group that volumes are given on mounting, where their driver does that: NFS and several
    shared file systems do not. 0: none."""
    supplemental_groups: tuple[UserId, ...] = ()
    """More groups, for claims that are writable by a group of their own."""


class EnvVar(Section):
    """One more environment variable."""

    name: EnvName
    """Its name. Those that torchrun, the operator and the chart set are refused."""
    value: str = ""
    """Its value; empty with valueFrom."""
    value_from: KubernetesObject = {}
    """Kubernetes' own `valueFrom`: a secretKeyRef, a configMapKeyRef, a fieldRef."""

    @model_validator(mode="after")
    def _is_ours_to_set(self) -> Self:
        for reserved in RESERVED_ENV:
            prefix = reserved.removesuffix("*")
            if self.name == reserved or (prefix != reserved and self.name.startswith(prefix)):
                raise ValueError(f"{self.name} is set by clusterfit itself; leave it out")
        if self.value and self.value_from:
            raise ValueError(f"{self.name} has both value and valueFrom; keep one")
        return self


class VolumeMount(Section):
    """One more volume of every worker pod, and where it is mounted."""

    name: Annotated[
        str, StringConstraints(pattern=rf"^{_DNS_LABEL}$"), Wanted("lower-case letters and digits")
    ]
    """A name of its own; tmp, cache, shm, config, data and storage are taken."""
    mount_path: Annotated[
        str, StringConstraints(pattern=r"^/[^:\x00-\x1f]*$"), Wanted("an absolute path")
    ]
    """Where it appears."""
    read_only: bool = True
    """Whether writing to it is refused."""
    source: KubernetesObject
    """Kubernetes' own volume source, `{hostPath: {path: /dev/infiniband}}` and the like. Not all of
    them pass `restricted` Pod Security."""

    @model_validator(mode="after")
    def _is_free(self) -> Self:
        if self.name in RESERVED_VOLUMES:
            raise ValueError(f"{self.name} is the name of a volume of clusterfit's; take another")
        if re.match(r"^/(data|storage|tmp|cache|etc/clusterfit|dev/shm)(/|$)", self.mount_path):
            raise ValueError(f"{self.mount_path} is clusterfit's own; mount elsewhere")
        return self


class Resources(Section):
    """What the pods of a stage ask for; all of it can be overridden for one stage."""

    gpus: NonNegativeInt = 8
    """GPUs of a stage, over all its nodes; 0: none, with device: cpu."""
    gpus_per_node: PositiveInt = 8
    """GPUs of one node, at most one pod's. Above it `gpus` must be a multiple, so that pods are
    alike."""
    gpu_resource: QualifiedName = "nvidia.com/gpu"
    """What the cluster calls a GPU: also amd.com/gpu, or a MIG slice."""
    nodes_without_gpus: PositiveInt = 1
    """Pods of a stage where gpus is 0."""
    processes_per_node: NonNegativeInt = 0
    """Processes in each pod; 0: one per GPU, or one where there are none. cluster.engine: faiss
    wants 1 in platform.stages.cluster: it drives a node's GPUs from one process."""
    cpus_per_node: Annotated[float, Gt(0)] = 64.0
    """CPU cores requested for a pod with a whole node's GPUs, or without GPUs; a pod with a part of
    the GPUs requests that part. Spare cores of the node are used too. Decoding images takes about
    one per 860 a second."""
    memory_gib_per_node: Annotated[float, Gt(0)] = 256.0
    """Memory of such a pod, request and limit, in GiB; divided likewise. shmGibPerNode is part of
    it. The cluster stage keeps its features in it, on CPUs, where they fit: 2 bytes a number with
    bfloat16, 5.2 GB for ImageNet at 2048; with faiss all of them, 4 bytes a number."""
    shm_gib_per_node: Annotated[float, Gt(0)] = 64.0
    """Shared memory of such a pod in GiB; divided likewise. Loaders and NCCL pass data in it."""
    extra_resources: dict[QualifiedName, Quantity] = {}
    """More resources of each pod, as requests and limits: `rdma/ib: "1"`."""
    node_selector: dict[QualifiedName, LabelValue] = {}
    """Labels that a node must have."""
    tolerations: tuple[KubernetesObject, ...] = ()
    """Kubernetes' own tolerations, for tainted GPU nodes."""
    affinity: KubernetesObject = {}
    """Kubernetes' own affinity."""
    deadline_seconds: Annotated[NonNegativeInt, OPERATIONAL] = 0
    """Longest time that a stage may take from its start, waiting for nodes included; then it is
    suspended and can be resumed. Under Kueue only the time admitted counts. 0: no limit."""
    start_deadline_seconds: Annotated[NonNegativeInt, OPERATIONAL] = 1800
    """Longest time until all pods of a stage run; then it is suspended, so that it does not hold
    GPUs while it waits for others. Not counted in a Kueue queue. 0: no limit."""

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


class Platform(Resources):
    """Where and how a cluster runs the stages."""

    stages: dict[StageName, StageOverride] = {}
    """Resources of single stages by their names, where they differ: `{cluster: {gpus: 1}}`. The
    cluster stage otherwise takes the GPUs of one node; on more it becomes a PyTorchJob, like the
    others."""
    image: Image = Image()
    """The container image."""
    storage: StorageVolume = StorageVolume()
    """The storage root: weights and run directories, read and written."""
    data: Volume = Volume()
    """The data root, mounted read-only; without a claim: the folder `data` of the storage claim."""
    queue: Queue = Queue()
    """Queueing and gang scheduling."""
    sequencing: Sequencing = Sequencing()
    """How one stage follows another."""
    priority_class: OptionalDnsName = ""
    """PriorityClass of the pods; empty: the cluster's default."""
    pod_user: PodUser = PodUser()
    """Whom the processes run as."""
    extra_env: tuple[EnvVar, ...] = ()
    """More environment variables of the worker pods."""
    nccl: dict[NcclName, str] = {}
    """NCCL's settings by their own names, as text: `NCCL_SOCKET_IFNAME: eth0`."""
    extra_volumes: tuple[VolumeMount, ...] = ()
    """More volumes of the worker pods: RDMA devices, scratch disks, trusted certificates."""
    capabilities: tuple[CapabilityName, ...] = ()
    """Linux capabilities of the worker pods, which otherwise have none: `IPC_LOCK`, where RDMA must
    lock memory. A namespace that enforces `restricted` refuses any."""
    labels: dict[QualifiedName, LabelValue] = {}
    """More labels of every object and pod."""
    annotations: dict[QualifiedName, str] = {}
    """More annotations of every object and pod."""
    network_policy: bool = False
    """Whether only the release's own pods may reach its pods: the rendezvous and NCCL know no
    passwords. Needs a network plugin that enforces policies."""
    ttl_seconds_after_finished: NonNegativeInt = 0
    """After this time a finished stage is removed, with its pods and their logs; the copies in the
    run directory stay. 0: kept until the release is deleted."""
    overwrite_token: Annotated[
        str, StringConstraints(pattern=r"^[a-z0-9-]{0,40}$"), Wanted("lower-case letters")
    ] = ""
    """Set by `submit --overwrite`: lets this one submission replace finished stages that were made
    with another configuration. Empty: they are refused."""

    @model_validator(mode="after")
    def _stages_are_consistent(self) -> Self:
        self.check()
        for stage in STAGES:
            try:
                self.for_stage(stage).check()
            except ValueError as error:
                raise ValueError(f"stages.{stage}.{error}") from None
        return self

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        for field, keys in (("labels", self.labels), ("annotations", self.annotations)):
            for key in keys:
                if key.startswith(RESERVED_LABEL_PREFIXES):
                    raise ValueError(f"{field}: {key} is set by clusterfit itself; leave it out")
        for field, names in (
            ("extraEnv", [*self.nccl, *(variable.name for variable in self.extra_env)]),
            ("extraVolumes", [volume.name for volume in self.extra_volumes]),
            ("extraVolumes", [volume.mount_path for volume in self.extra_volumes]),
            ("capabilities", list(self.capabilities)),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{field}: {twice[0]} is given twice; keep one")
        return self

    @property
    def data_folder(self) -> str:
        """Folder of the data claim that becomes the data root; empty: all of it."""
        on_storage = self.data.claim in ("", self.storage.claim)
        return self.data.sub_path or (_DATA_FOLDER if on_storage else "")

    def check_run_folder(self, name: str) -> None:
        """Raise ValueError where a run of this name would write among the data."""
        if self.data.claim not in ("", self.storage.claim):
            return
        run = f"{self.storage.sub_path}/{name}/".lstrip("/")
        data = f"{self.data_folder}/"
        if run.startswith(data) or data.startswith(run):
            raise ValueError(
                f"name: the run's directory would be {run} on the storage claim, where the data is "
                f"({data}); take another name or platform.data.subPath"
            )

    def for_stage(self, stage: StageName) -> Resources:
        """Return what one stage asks for: its override, else the platform's.

        The cluster stage keeps to one node unless its own settings say otherwise: k-means on the
        GPUs of one takes minutes where extract took hours.
        """
        override = self.stages.get(stage, StageOverride())
        settings = {name: getattr(self, name) for name in Resources.model_fields}
        given = {name: getattr(override, name) for name in override.model_fields_set}
        if stage == "cluster":
            settings["gpus"] = min(self.gpus, {**settings, **given}["gpus_per_node"])
            settings["nodes_without_gpus"] = 1
        return Resources.model_construct(**{**settings, **given})
