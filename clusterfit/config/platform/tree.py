"""What Kubernetes needs of a run file: the `platform` section, which never enters a container.

A pod stands for a node: `gpusPerNode`, `cpusPerNode` and the like are what one pod asks for, and
the number of pods follows from `gpus`. Kubernetes' own words are kept where the cluster reads them
(tolerations, affinity, env, volumes); their content is checked on the rendered objects.
"""

from __future__ import annotations

from typing import Annotated, Final, Self

from pydantic import StringConstraints, model_validator

from clusterfit.config.platform.pods import EnvVar, Image, PodUser, VolumeMount
from clusterfit.config.platform.queueing import Queue, Sequencing
from clusterfit.config.platform.resources import Resources, StageOverride
from clusterfit.config.platform.values import (
    LabelValue,
    NcclName,
    OptionalDnsName,
    QualifiedName,
)
from clusterfit.config.platform.volumes import StorageVolume, Volume
from clusterfit.config.section import Wanted
from clusterfit.config.sections.values import NonNegativeInt
from clusterfit.config.stages import STAGES, StageName

RESERVED_LABEL_PREFIXES: Final = (
    "clusterfit.dev/", "app.kubernetes.io/", "helm.sh/", "training.kubeflow.org/",
    "kueue.x-k8s.io/",
)  # fmt: skip
"""Whose labels and annotations the chart, the operator and Kueue read back."""

_DATA_FOLDER: Final = "data"


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
    labels: dict[QualifiedName, LabelValue] = {}
    """More labels of every object and pod."""
    annotations: dict[QualifiedName, str] = {}
    """More annotations of every object and pod."""
    network_policy: bool = False
    """Whether only the release's own pods may reach its pods: the rendezvous and NCCL know no
    passwords. Needs a network plugin that enforces policies."""
    ttl_seconds_after_finished: NonNegativeInt = 0
    """So long after the last of a release's stages has succeeded, all of them are removed, with
    their pods and logs; the copies in the run directory stay. Where one has failed, all are kept
    until the release is replaced or deleted, so that `status` still says so. 0: always kept until
    then. With `sequencing.mode: client`, whoever waits for the run sees to it."""
    overwrite_token: Annotated[
        str, StringConstraints(pattern=r"^[a-z0-9-]{0,40}$"), Wanted("lower-case letters")
    ] = ""
    """Set by `submit --overwrite`: once for this submission its stages are done again, whatever is
    there. Empty: what is finished is skipped, and refused where it was made otherwise."""

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
