"""One of two ranks that fit k-means on CPUs of different kinds; prints what came of it."""

from __future__ import annotations

import hashlib
import json
import sys
from datetime import timedelta
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist

from clusterfit.config.sections.clustering import Cluster
from clusterfit.worker.kmeans import arithmetic
from clusterfit.worker.kmeans.ranks import Ranks
from clusterfit.worker.kmeans.rows import ArrayRows
from clusterfit.worker.kmeans.torch_engine import TorchEngine

_TIMEOUT = timedelta(seconds=60)


def fit(rank: int, meeting_point: str, flags: set[str]) -> None:
    """Fit 400 rows with another rank, on a CPU that has these flags by its own account."""
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=2, timeout=_TIMEOUT
    )
    rows = np.random.default_rng(0).normal(size=(400, 64)).astype(np.float32)
    config = Cluster.model_validate({"engine": "torch", "num_clusters": 5, "num_iterations": 3})
    engine = TorchEngine(torch.device("cpu"), Ranks(rank, 2))
    with patch.object(arithmetic, "read_cpu_flags", return_value=flags):
        found = engine.fit(ArrayRows(rows), config, 0, None, lambda _fit: None)
    told = engine.describe()
    digest = hashlib.sha256(found.centroids.tobytes()).hexdigest()
    print(json.dumps([told["dtype"], told["products"], told["reason"], digest]), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    fit(int(sys.argv[1]), sys.argv[2], set(sys.argv[3:]))
