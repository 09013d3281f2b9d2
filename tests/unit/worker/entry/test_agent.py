"""The rendezvous of a single node."""

from __future__ import annotations

import socket

import pytest

from clusterfit.worker.entry.agent import build_rendezvous
from clusterfit.worker.entry.place import Place


def test_a_single_nodes_port_is_taken_from_the_moment_it_is_chosen() -> None:
    rendezvous, port_holder = build_rendezvous(Place(1, 0, 2, "127.0.0.1", 0, "submission"))
    assert port_holder is not None
    assert rendezvous.master_port == port_holder.port
    with socket.socket() as intruder, pytest.raises(OSError, match="in use"):
        intruder.bind(("127.0.0.1", port_holder.port))
    store = rendezvous.next_rendezvous().store
    store.set("key", "value")
    assert store.get("key") == b"value"


def test_a_port_that_is_given_is_left_to_the_rendezvous() -> None:
    rendezvous, port_holder = build_rendezvous(Place(2, 1, 2, "node-0", 23456, "submission"))
    assert port_holder is None
    assert (rendezvous.master_addr, rendezvous.master_port) == ("node-0", 23456)
