"""The rendezvous of a single node, and how long ranks have to stop."""

from __future__ import annotations

import os
import signal
import socket
from typing import cast

import pytest

from clusterfit.errors import TERMINATED_EXIT_CODE
from clusterfit.worker.entry.agent import GRACE_SECONDS, build_rendezvous, run_agent
from clusterfit.worker.entry.local_ranks import LocalRanks
from clusterfit.worker.entry.place import Place
from clusterfit.worker.log import Log


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


class _Busy:
    """Ranks that work until they are stopped; the pod's SIGTERM comes when they are looked at."""

    def __init__(self) -> None:
        self.stops: list[tuple[int, float]] = []

    def wait_until_warm(self) -> bool:
        return True

    def start(self, *_: object) -> None:
        pass

    def poll(self) -> list[int | None]:
        os.kill(os.getpid(), signal.SIGTERM)
        return [None]

    def stop(self, number: int, grace_seconds: float) -> None:
        self.stops.append((number, grace_seconds))


def test_ranks_have_nearly_all_of_the_pods_grace_to_write_a_checkpoint(log: Log) -> None:
    ranks = _Busy()
    place = Place(1, 0, 1, "127.0.0.1", 0, "submission")
    code = run_agent(place, cast(LocalRanks, ranks), "train", "token", 1, log)
    assert code == TERMINATED_EXIT_CODE
    assert ranks.stops == [(signal.SIGTERM, GRACE_SECONDS)]
