"""Where this entry's node stands among how many, as torchrun's environment says."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from clusterfit.errors import ConfigError
from clusterfit.worker.entry.nproc import AUTOMATIC, VARIABLE


@dataclass(frozen=True, slots=True)
class Place:
    """One node of a gang: which of how many, and where they meet."""

    num_nodes: int
    node_rank: int
    nproc_per_node: int
    master_addr: str
    master_port: int
    """0: any free one, on a single node."""
    submission: str

    @property
    def world_size(self) -> int:
        """Ranks of the whole gang."""
        return self.num_nodes * self.nproc_per_node


def read_place(environment: Mapping[str, str]) -> Place:
    """Return the place that torchrun's PET_* variables describe; alone where they are not set.

    The number of processes was settled before (`nproc.settle_nproc`).

    Raises:
        ConfigError: when they are no numbers, or contradict each other.
    """
    num_nodes = _read_int(environment, "PET_NNODES", 1)
    place = Place(
        num_nodes=num_nodes,
        node_rank=_read_int(environment, "PET_NODE_RANK", 0),
        nproc_per_node=_read_nproc(environment.get(VARIABLE, "1")),
        master_addr=environment.get("PET_MASTER_ADDR", "127.0.0.1"),
        master_port=_read_int(environment, "PET_MASTER_PORT", 0),
        submission=environment.get("PET_RDZV_ID", "") or uuid.uuid4().hex,
    )
    if num_nodes < 1:
        raise ConfigError(f"PET_NNODES: got {num_nodes}, want at least 1")
    if not 0 <= place.node_rank < place.num_nodes:
        raise ConfigError(
            f"PET_NODE_RANK: got {place.node_rank}, want 0..{place.num_nodes - 1} (PET_NNODES)"
        )
    needed = ("PET_MASTER_ADDR", "PET_MASTER_PORT", "PET_RDZV_ID")
    missing = [name for name in needed if environment.get(name, "") in {"", "0"}]
    if num_nodes > 1 and missing:
        raise ConfigError(
            f"{', '.join(missing)}: not set, but PET_NNODES is {num_nodes}; every node needs node "
            "0's address and port, and one id for all"
        )
    return place


def _read_int(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{name}: got {text}, want a whole number") from None


def _read_nproc(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise ConfigError(f"{VARIABLE}: got {text}, want a number, {', '.join(AUTOMATIC)}")
