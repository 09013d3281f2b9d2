"""What is noted of a partition's assignments."""

from __future__ import annotations

import numpy as np
import pytest

from clusterfit.errors import InvalidDataError
from clusterfit.worker.kmeans.engine import Assigner
from clusterfit.worker.kmeans.faiss_engine import FaissEngine
from clusterfit.worker.kmeans.results import Share, warn_where_wrong
from clusterfit.worker.kmeans.torch_engine import TorchEngine
from clusterfit.worker.log import Log

from .conftest import draw


def test_assignments_that_are_not_float64s_are_warned_of_with_their_number(
    capsys: pytest.CaptureFixture[str],
) -> None:
    partitions = {
        "train": {"num_audited": 5000, "num_audited_wrong": 3},
        "val": {"num_audited": 500, "num_audited_wrong": 0},
        "large": {"num_audited": 1_000_000, "num_audited_wrong": 10},
        "none": {"num_audited": 0, "num_audited_wrong": 0},
    }
    warn_where_wrong(Log("cluster", 0), partitions)
    [told] = capsys.readouterr().out.splitlines()
    assert "level=warning" in told
    assert "partition=train num_audited_wrong=3 num_audited=5000" in told


@pytest.mark.parametrize("dim", [12, 96])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("engine", ["faiss", "torch"])
def test_rows_that_are_no_numbers_are_in_no_cluster(engine: str, bad: float, dim: int) -> None:
    """Of a partition that no centroid was fitted to, so that nobody has looked at them."""
    rows, centroids = draw(300, dim), draw(20, dim, seed=1)
    sample = rows[::2].copy()
    rows[41, 3] = bad
    built = FaissEngine(2) if engine == "faiss" else TorchEngine()
    assigner: Assigner = built.build_assigner(centroids, sample)
    share = Share.empty(300, 20, 1)
    with pytest.raises(InvalidDataError, match="not finite"):
        share.include(np.arange(300), assigner.assign(rows))
