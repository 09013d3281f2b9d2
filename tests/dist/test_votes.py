"""Two ranks of a training of which one alone is told to stop."""

from __future__ import annotations

from .two_ranks import run_two_ranks

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
    texts = run_two_ranks(RANK)
    for text in texts:
        said = [line for line in text.splitlines() if line.startswith("stopped at")]
        # Told to after the vote of step 4, it votes so at step 5; all have counted that at step 6.
        assert said == ["stopped at 6"], "\n".join(texts)
