"""The claims: where images and weights are read from, and runs are written to."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import StringConstraints, model_validator

from clusterfit.config.platform.values import DnsName, OptionalDnsName
from clusterfit.config.section import Section, Wanted


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
