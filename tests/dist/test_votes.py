"""Two ranks of a training of which one alone is told to stop."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

DEADLINE_SECONDS = 120.0

RANK = """
import os, signal
import torch
from clusterfit.worker.distenv import open_process_group
from clusterfit.worker.log import Log
from clusterfit.worker.training.votes import StopVotes

with open_process_group("cpu", 0, Log("train", int(os.environ["RANK"]))) as env:
    votes = StopVotes(env)
    for step in range(100):
        if votes.vote():
            print("stopped at", step)
            break
        if step == 4 and env.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        # Others of the same group, while the vote is on its way.
        assert env.sum_tensor(torch.ones(3)).tolist() == [2, 2, 2]
        assert env.merge({env.rank: step}) == {0: step, 1: step}
    env.barrier()
"""


def test_both_stop_at_the_same_step() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK],
            env=os.environ
            | {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in "01"
    ]
    try:
        texts = [rank.communicate(timeout=DEADLINE_SECONDS)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    for text in texts:
        said = [line for line in text.splitlines() if line.startswith("stopped at")]
        # Told to after the vote of step 4, it votes so at step 5; all have counted that at step 6.
        assert said == ["stopped at 6"], "\n".join(texts)
