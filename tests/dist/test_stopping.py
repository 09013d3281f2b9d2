"""Two ranks of a fit of which one alone is told to stop, in the middle of a loop over rows."""

from __future__ import annotations

import pytest

from .two_ranks import run_two_ranks

RANK = """
import os, signal, sys
import numpy as np
from clusterfit.config.sections.clustering import Cluster
from clusterfit.errors import TerminatedError
from clusterfit.worker.distenv import open_process_group
from clusterfit.worker.kmeans import pulse, rank_rows, torch_engine
from clusterfit.worker.kmeans.ranks import Ranks
from clusterfit.worker.kmeans.rows import ArrayRows
from clusterfit.worker.log import Log

rank_rows._BLOCK_ROWS, rank_rows.CHUNK_ROWS, pulse._ASK_SECONDS = 32, 128, 0.0
torch_engine.find_available_bytes = lambda device: (150_000, "a test")
last, log = int(sys.argv[1]), Log("cluster", int(os.environ["RANK"]))


class Watched(ArrayRows):
    num_reads = 0

    def read(self, start, stop):
        Watched.num_reads += 1
        if Watched.num_reads == last and env.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        elif Watched.num_reads == last:
            env.store.wait(["stopping"])
        return super().read(start, stop)


with open_process_group("cpu", 0, log) as env:
    rows = Watched(np.random.default_rng(0).normal(size=(4000, 12)).astype(np.float32))
    engine = torch_engine.TorchEngine(ranks=Ranks(env.rank, 2))
    config = Cluster(engine="torch", num_clusters=20, num_iterations=3)
    try:
        engine.fit(rows, config, 0, None, lambda fit: None, pulse.StagePulse(env, log))
    except TerminatedError:
        print("stopped after", Watched.num_reads, engine.describe().get("rows"))
"""


@pytest.mark.parametrize(
    "last", [7, *(pytest.param(each, marks=pytest.mark.campaign) for each in (70, 135, 300))]
)
def test_all_leave_a_loop_when_one_is_told_to(last: int) -> None:
    """In turn: the range, the rows, the sample for a start, and the iterations."""
    texts = run_two_ranks(RANK, str(last))
    for text in texts:
        said = [line for line in text.splitlines() if line.startswith("stopped after")]
        assert len(said) == 1, "\n".join(texts)
        # The rest of a chunk at most; a rank that is slower hears of it before.
        assert int(said[0].split()[2]) <= last + 4
