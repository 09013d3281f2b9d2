"""What every pod is made of: image, user, environment, volumes of the user's own."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, Self

from pydantic import StringConstraints, model_validator

from clusterfit.config.platform.values import DNS_LABEL, DnsName, EnvName, KubernetesObject, UserId
from clusterfit.config.section import Section, Wanted
from clusterfit.config.sections.values import NonNegativeInt

RESERVED_ENV: Final = (
    "PET_*", "TORCHELASTIC_*", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE",
    "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK", "ROLE_RANK",
    "PYTHONUNBUFFERED", "HOME", "TMPDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR",
)  # fmt: skip
"""Variables that the chart, the operator or torchrun set; `*` stands for any ending."""

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
        str, StringConstraints(pattern=rf"^{DNS_LABEL}$"), Wanted("lower-case letters and digits")
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
