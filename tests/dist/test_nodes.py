"""Two nodes' entries on one computer, as two pods start them."""

from __future__ import annotations

import signal
import socket

import pytest

from .door import Bench, Process, find_descendants, is_alive, wait_until

SUBMISSION = "two-nodes"


def find_free_port() -> int:
    """Return a port that is free, and whose successor, the gang's, is too."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def start_node(bench: Bench, node_rank: int, port: int) -> Process:
    return bench.start_worker(
        "pretext",
        1,
        SUBMISSION,
        PET_NNODES="2",
        PET_NODE_RANK=str(node_rank),
        PET_MASTER_ADDR="127.0.0.1",
        PET_MASTER_PORT=str(port),
        GLOO_SOCKET_IFNAME="lo",
    )


def test_a_node_that_comes_before_node_0_has_listed_the_images_waits_for_it(bench: Bench) -> None:
    port = find_free_port()
    late = start_node(bench, 1, port)
    first = start_node(bench, 0, port)
    for node in (first, late):
        ending = node.wait()
        assert ending.code == 0, ending.text
    assert bench.run.backbone("pretext").exists()
    assert (bench.run.rank_log("pretext", 1, 1)).exists(), "the second rank was the second node's"


@pytest.mark.parametrize(("node_rank", "line"), [(0, "waiting for all"), (1, "waiting for node 0")])
def test_a_node_that_waits_for_others_obeys_sigterm(
    bench: Bench, node_rank: int, line: str
) -> None:
    """Its GPUs are free at once, not when the pod's grace is over."""
    node = start_node(bench, node_rank, find_free_port())
    node.wait_for_line(line)
    node.send(signal.SIGTERM)
    assert node.ends_within(30)
    assert node.wait().code == 143


def test_a_node_that_is_lost_brings_all_nodes_back(bench: Bench) -> None:
    port = find_free_port()
    endless = bench.changed({"pretext.epochs": 2000})
    nodes = [start_node(endless, rank, port) for rank in (0, 1)]
    nodes[0].wait_for_line("msg=epoch")
    orphans = find_descendants(nodes[1].pid)  # what its rank was forked from, and its rank
    assert len(orphans) == 2
    nodes[1].send(signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, orphans)), 10, "they end with their entry")
    assert nodes[0].wait().code >= 128, "another attempt is asked for"
    nodes[1].wait()
