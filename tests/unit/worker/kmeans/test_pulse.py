"""Stopping and progress wherever an engine reads rows."""

from __future__ import annotations

import re

import numpy as np
import pytest

from clusterfit.errors import TerminatedError
from clusterfit.worker.distenv import DistEnv
from clusterfit.worker.kmeans import rank_rows, rows, torch_engine
from clusterfit.worker.kmeans.engine import Engine
from clusterfit.worker.kmeans.faiss_engine import FaissEngine
from clusterfit.worker.kmeans.pulse import StagePulse
from clusterfit.worker.kmeans.rows import ArrayRows
from clusterfit.worker.kmeans.torch_engine import TorchEngine
from clusterfit.worker.log import Log

from .conftest import draw, settings

BLOCK, CHUNK = 32, 128


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let rows be streamed in pieces of which even a few rows have many."""
    monkeypatch.setattr(rank_rows, "_BLOCK_ROWS", BLOCK)
    monkeypatch.setattr(rank_rows, "CHUNK_ROWS", CHUNK)
    monkeypatch.setattr(rows, "CHUNK_ROWS", CHUNK)
    monkeypatch.setattr(torch_engine, "find_available_bytes", lambda _device: (300_000, "a test"))


class StoppingRows(ArrayRows):
    """Rows during whose reading SIGTERM comes, once so many have been read."""

    def __init__(self, array: np.ndarray, env: DistEnv, after: int) -> None:
        super().__init__(array)
        self._env = env
        self._after = after
        self.num_read = 0

    def read(self, start: int, stop: int) -> np.ndarray:
        self.num_read += stop - start
        self._env.stop.is_set = self.num_read > self._after
        return super().read(start, stop)


@pytest.mark.parametrize("built", [TorchEngine(), FaissEngine(2)])
def test_a_fit_stops_wherever_it_is(built: Engine, env: DistEnv) -> None:
    array = draw(4000, 96, num_groups=40)
    others = {"engine": "faiss", "init": "random"} if built.name == "faiss" else {}
    config = settings(20, 3, **others)
    whole = StoppingRows(array, env, 10**9)
    built.fit(whole, config, 0, None, lambda _fit: None, StagePulse(env, Log("cluster", 0)))
    for after in range(0, whole.num_read - 4 * CHUNK, 777):
        source = StoppingRows(array, env, after)
        with pytest.raises(TerminatedError):
            built.fit(
                source, config, 0, None, lambda _fit: None, StagePulse(env, Log("cluster", 0))
            )
        # At most the chunk that it is at, and the few rows that are looked at one by one.
        assert source.num_read <= after + 2 * CHUNK + 300


def test_each_phase_before_the_first_iteration_tells_how_far_it_is(
    env: DistEnv, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = TorchEngine()
    source = ArrayRows(draw(4000, 96, num_groups=40))
    pulse = StagePulse(env, Log("cluster", 0))
    engine.fit(source, settings(20, 3), 0, None, lambda _fit: None, pulse)
    assert engine.describe()["rows"] == "streamed"
    told = re.findall(r"msg=progress done=(\d+) total=(\d+) .*phase=(.*)", capsys.readouterr().out)
    ends = [(phase.strip('"'), int(total)) for done, total, phase in told if done == total]
    assert ends == [
        ("range of the rows", 4000), ("rows", 4000), ("sample for a start", 4000), ("start", 10)
    ]  # fmt: skip


def test_a_rank_alone_hears_its_own_stop(env: DistEnv) -> None:
    turns: list[int] = []

    def work() -> None:
        with StagePulse(env, Log("cluster", 0)).loop() as beat:
            for turn in range(9):
                beat(turn)
                turns.append(turn)
                env.stop.is_set = turn == 4

    with pytest.raises(TerminatedError):
        work()
    assert turns == [0, 1, 2, 3, 4]
