"""A vote to stop is counted a step later; tests/dist/test_resume.py stops three ranks by it."""

from __future__ import annotations

from clusterfit.worker.distenv import DistEnv
from clusterfit.worker.training.votes import StopVotes


def test_ranks_stop_at_the_step_after_the_vote(env: DistEnv) -> None:
    votes = StopVotes(env)
    assert [votes.vote() for _ in range(3)] == [False] * 3
    env.stop.is_set = True
    assert not votes.vote(), "others may have voted before it was heard"
    assert votes.vote()
    assert not votes.count(), "no vote is left behind: who stops must find the others in step"


def test_the_last_vote_is_counted_when_all_is_done(env: DistEnv) -> None:
    votes = StopVotes(env)
    assert not votes.count()
    env.stop.is_set = True
    votes.vote()
    assert votes.count()
    assert not votes.count()
