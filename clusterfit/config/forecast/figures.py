"""What a forecast is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from clusterfit.config.platform.resources import Resources
from clusterfit.config.stages import StageName

_MILLICORES: Final = 1000
_MEBIBYTES: Final = 1024

Counts = Mapping[str, int]
"""Partition -> number of its images, where it is known."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a run's inputs beside the run file; 0: it is not."""

    num_classes: int = 0
    """Of the labels."""
    num_clusters: int = 0
    """Of inputs.assignments."""
    num_assigned: int = 0
    """Images of train that have one of these."""
    feature_dim: int = 0
    """Of inputs.features."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a forecast, and why it is what it is."""

    name: str
    value: int | float | tuple[int, ...] | None
    """None where it cannot be known yet."""
    because: str


@dataclass(frozen=True, slots=True)
class Pods:
    """What the cluster is asked for, for one stage."""

    count: int
    processes: int
    """In each."""
    gpus: int
    """Of each, under the name `gpu_resource`."""
    gpu_resource: str
    cpus: float
    """Requested by each."""
    memory_gib: float
    """Request and limit of each, shared memory included."""
    shm_gib: float

    @property
    def world_size(self) -> int:
        """Ranks of the stage."""
        return self.count * self.processes


@dataclass(frozen=True, slots=True)
class StageForecast:
    """What one stage will do and need."""

    stage: StageName
    pods: Pods
    work: tuple[Figure, ...]
    """Batches, steps and rates, by the names under which the worker logs them."""
    storage: tuple[Figure, ...]
    """Bytes by path below the run directory."""
    memory: tuple[Figure, ...] = ()
    """Bytes that it cannot do without."""
    remarks: tuple[str, ...] = ()
    """What is allowed and yet probably not meant."""


def describe_pods(resources: Resources) -> Pods:
    """Return what a stage's resources ask of the cluster."""
    part = resources.node_fraction
    return Pods(
        count=resources.nodes,
        processes=resources.processes,
        gpus=resources.gpus_per_pod,
        gpu_resource=resources.gpu_resource,
        cpus=_round_up(resources.cpus_per_node * part, _MILLICORES),
        memory_gib=_round_up(resources.memory_gib_per_node * part, _MEBIBYTES),
        shm_gib=_round_up(resources.shm_gib_per_node * part, _MEBIBYTES),
    )


def _round_up(amount: float, steps: int) -> float:
    """Return what Kubernetes is asked for, whose amounts come in steps."""
    return math.ceil(amount * steps) / steps
