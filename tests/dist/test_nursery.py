"""The process that ranks are forked from is clean, deaf to signals, and gone with its entry."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.config.stages import STAGES
from clusterfit.config.tree import Algorithm
from clusterfit.errors import KilledError
from clusterfit.worker.arguments import Assignment
from clusterfit.worker.entry.local_ranks import LocalRanks
from clusterfit.worker.entry.place import Place

from .conftest import CONFIG
from .door import find_descendants, is_alive, wait_until

PLACE = Place(1, 0, 2, "127.0.0.1", 0, "submission")

_LOOK = """
import json, os, sys
from clusterfit.worker.nursery import preload
preload(sys.argv[1:])
import torch
threads = lambda: len(os.listdir("/proc/self/task"))
is_used = torch.cuda.is_initialized()
pid = os.fork()
if pid == 0:
    print(json.dumps([is_used, torch.cuda._is_in_bad_fork(), threads()]), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print(threads())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_what_is_loaded_before_a_fork_leaves_no_thread_and_no_gpu_in_use() -> None:
    looked = subprocess.run(
        [sys.executable, "-c", _LOOK, *STAGES], capture_output=True, text=True, check=True
    )
    child, parent = map(json.loads, looked.stdout.splitlines())
    assert child == [False, False, 1]
    assert parent == 1, "OpenBLAS has stopped its threads for the fork, and nobody else had any"


@pytest.fixture
def ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalRanks]:
    """Ranks whose nursery is warm, started in a folder where a module stands in for torch."""
    (tmp_path / "torch.py").write_text("raise SystemExit(65)", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG), encoding="utf-8")
    algorithm = Algorithm.model_validate_json(config.read_bytes(), by_alias=True, by_name=False)
    run = RunDirectory(tmp_path, "x")
    assignment = Assignment("cluster", config, algorithm, tmp_path, run, overwrite="")
    with LocalRanks(assignment, ["cluster"], PLACE) as ranks:
        ranks.warm_up()
        wait_until(ranks.wait_until_warm, 120, "the nursery is warm")
        yield ranks


def test_ranks_come_from_it_and_end_with_it(ranks: LocalRanks) -> None:
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
        with pytest.raises(KilledError, match="forked from was killed"):
            ranks.poll()
