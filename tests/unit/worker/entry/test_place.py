"""Where a node stands, as torchrun's environment says."""

from __future__ import annotations

import pytest

from clusterfit.errors import ConfigError
from clusterfit.worker.entry.place import Place, read_place

PAIR = {
    "PET_NNODES": "2",
    "PET_NODE_RANK": "1",
    "PET_NPROC_PER_NODE": "4",
    "PET_MASTER_ADDR": "run-worker-0",
    "PET_MASTER_PORT": "23456",
    "PET_RDZV_ID": "abc",
}


def test_one_node_of_two_knows_its_place() -> None:
    place = read_place(PAIR)
    assert place == Place(2, 1, 4, "run-worker-0", 23456, "abc")
    assert place.world_size == 8


def test_without_an_environment_a_node_is_alone() -> None:
    place = read_place({})
    assert (place.num_nodes, place.node_rank, place.nproc_per_node) == (1, 0, 1)
    assert (place.master_addr, place.master_port) == ("127.0.0.1", 0)
    assert place.submission
    assert place.submission != read_place({}).submission, "each is a submission of its own"


def test_an_operators_variables_for_pods_are_not_read() -> None:
    """RANK and WORLD_SIZE count pods there, not processes."""
    assert read_place({"RANK": "3", "WORLD_SIZE": "9"}).world_size == 1


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"PET_NODE_RANK": "2"}, r"^PET_NODE_RANK: got 2, want 0\.\.1"),
        ({"PET_NODE_RANK": "-1"}, r"^PET_NODE_RANK: got -1"),
        ({"PET_NODE_RANK": "first"}, r"^PET_NODE_RANK: got first, want a whole number"),
        ({"PET_NNODES": "0"}, r"^PET_NNODES: got 0"),
        ({"PET_NNODES": "1:4"}, r"^PET_NNODES: got 1:4, want a whole number"),
        ({"PET_MASTER_PORT": "http"}, r"^PET_MASTER_PORT: got http"),
        ({"PET_MASTER_PORT": "0"}, r"^PET_MASTER_PORT: not set, but PET_NNODES is 2"),
        ({"PET_RDZV_ID": ""}, r"^PET_RDZV_ID: not set"),
        ({"PET_MASTER_ADDR": ""}, r"^PET_MASTER_ADDR: not set"),
        ({"PET_NPROC_PER_NODE": "0"}, r"^PET_NPROC_PER_NODE: got 0"),
        ({"PET_NPROC_PER_NODE": "all"}, r"^PET_NPROC_PER_NODE: got all"),
    ],
)
def test_an_environment_that_contradicts_itself_is_refused(
    change: dict[str, str], fault: str
) -> None:
    with pytest.raises(ConfigError, match=fault):
        read_place(PAIR | change)
