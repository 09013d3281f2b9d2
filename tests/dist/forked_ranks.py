"""A program that is to an entry's ranks what an entry is; `check` fails where they are not so."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import nullcontext
from pathlib import Path

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.config.tree import Algorithm
from clusterfit.errors import KilledError
from clusterfit.worker.arguments import Assignment
from clusterfit.worker.entry.local_ranks import LocalRanks
from clusterfit.worker.entry.place import Place
from tests.dist.door import find_descendants, is_alive, wait_until

PLACE = Place(1, 0, 2, "127.0.0.1", 0, "submission")


def check() -> None:
    """Let ranks fail, be stopped, and lose their nursery."""
    here, config = Path.cwd(), Path.cwd() / "config.json"
    algorithm = Algorithm.model_validate_json(config.read_bytes(), by_alias=True, by_name=False)
    run = RunDirectory(here, "x")
    assignment = Assignment("cluster", algorithm, here, run, overwrite="")
    signal.signal(signal.SIGTERM, lambda *_: os._exit(99))  # an entry's own; ranks have none
    with LocalRanks(assignment, ["cluster"], PLACE) as ranks:
        ranks.warm_up(nullcontext)
        wait_until(ranks.wait_until_warm, 120, "the nursery is warm")
        _check(ranks)
    assert find_descendants(os.getpid()) == []


def _check(ranks: LocalRanks) -> None:
    [nursery] = find_descendants(os.getpid())
    os.kill(nursery, signal.SIGTERM)  # as a service manager does, to all processes at once

    ranks.start("cluster", "token", 1, [{}, {}])  # nobody says which rank they are
    wait_until(lambda: None not in ranks.poll(), 60, "both have failed")
    assert ranks.poll() == [203, 203]

    with socket.create_server(("127.0.0.1", 0)) as deaf:  # a store that never answers
        place = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(deaf.getsockname()[1]),
            "WORLD_SIZE": "2",
            "LOCAL_RANK": "0",
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
        environments = [place | {"RANK": str(rank)} for rank in (0, 1)]
        ranks.start("cluster", "token", 1, environments)
        with deaf.accept()[0]:
            wait_until(lambda: len(find_descendants(nursery)) == 2, 60, "there are two ranks")
            for rank in find_descendants(nursery):  # the entry alone decides what it means
                os.kill(rank, signal.SIGHUP)
            ranks.stop(signal.SIGTERM, 60)
        assert ranks.poll() == [-signal.SIGTERM, -signal.SIGTERM], "it strikes while they join"

        ranks.start("cluster", "token", 1, environments)
        wait_until(lambda: len(find_descendants(nursery)) == 2, 60, "there are two ranks")
        started = find_descendants(nursery)
        os.kill(nursery, signal.SIGSTOP)
        ranks.start("cluster", "token", 1, environments)  # never read: its end is a reset
        os.kill(nursery, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, started)), 10, "the ranks end with it")
        try:
            ranks.poll()
        except KilledError as error:
            assert "forked from was killed" in str(error)  # noqa: PT017 - pytest is not here
        else:
            raise AssertionError("nobody has noticed")
