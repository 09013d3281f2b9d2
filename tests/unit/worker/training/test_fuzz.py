"""Checkpoints with wrong bytes: what is read is what was written, or nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clusterfit.artifacts.manifest import Identity
from clusterfit.worker.log import Log
from clusterfit.worker.training.checkpoint import Checkpoints
from tests.chance import damage, draw_cases

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning"),
]


def test_a_damaged_checkpoint_is_never_gone_on_from(tmp_path: Path, log: Log) -> None:
    identity = Identity("train", {"epochs": 3}, {"data.train": "d" * 64})
    checkpoints = Checkpoints(tmp_path, identity, 1, lambda: None)
    weights = torch.arange(1000.0)
    checkpoints.write(5, {"model": {"weight": weights}, "metrics": [{"loss": 0.5}]})
    [path] = tmp_path.iterdir()
    original = path.read_bytes()
    num_unused = 0
    for label, chance in draw_cases("checkpoint", 2000):
        path.write_bytes(damage(original, chance))
        step = checkpoints.find_newest(log)
        num_unused += step == 0
        if step:
            state = checkpoints.read(step)
            assert step == 5, label
            assert torch.equal(state["model"]["weight"], weights), label
            assert state["metrics"] == [{"loss": 0.5}], label
    assert num_unused > 1900
