"""Ranks of a training agree to stop, at the same step and without waiting for each other."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from clusterfit.worker.distenv import DistEnv


class StopVotes:
    """One vote a step, counted a step later: until then it goes around all ranks by itself.

    Waiting for it would take milliseconds of each step on 32 ranks, and keep all in step.
    """

    def __init__(self, env: DistEnv) -> None:
        """Begin without a vote."""
        self._env = env
        self._cast: tuple[Any, torch.Tensor] | None = None

    def vote(self) -> bool:
        """Return whether all stop now, because one had been asked to at the last vote.

        Every rank must call it at the same step, and gets the same answer.
        """
        if self.count():
            return True
        vote = torch.tensor([int(self._env.stop.is_set)])
        work = dist.all_reduce(vote, dist.ReduceOp.MAX, group=self._env.control, async_op=True)
        self._cast = work, vote
        return False

    def count(self) -> bool:
        """Return what the last vote says, once it is there; every rank must call it."""
        if self._cast is None:
            return False
        work, vote = self._cast
        self._cast = None
        work.wait()
        return bool(vote.item())
