"""When a stage starts: queue and gang, and who releases one stage after another."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from clusterfit.config.platform.values import OptionalDnsName, OptionalTopologyLevel
from clusterfit.config.section import Section


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
    whoever runs `clusterfit submit --follow` or `clusterfit wait`; while nobody does, no stage is
    started, and none that gets nowhere is stopped."""
    service_account: OptionalDnsName = ""
    """Account of the supervisor, made by an administrator; empty: the release makes one, with a
    Role for exactly its own jobs, which needs the right to create Roles."""
