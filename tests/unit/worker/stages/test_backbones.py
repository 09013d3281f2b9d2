"""Backbones are all looked at before the first of them is judged for hours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.artifacts.owner import claim
from clusterfit.config.loading import check_values
from clusterfit.errors import ClusterfitError
from clusterfit.worker.arguments import Assignment
from clusterfit.worker.context import Context
from clusterfit.worker.distenv import DistEnv
from clusterfit.worker.entry.samples import find_samples, fix_samples
from clusterfit.worker.log import Log
from clusterfit.worker.networks.small_resnet import SmallResNet
from clusterfit.worker.stages import evaluate

GOOD = {"label": "good", "from": "random", "model": "resnet8_small"}
OTHER = GOOD | {"label": "other", "model": "squeezenet1_1"}
FILE = {"label": "file", "from": "path", "path": "small.pth", "model": "resnet8_small"}


class _Reached(Exception):  # noqa: N818 - no error
    """The first backbone would be judged now."""


@pytest.fixture
def judge(
    env: DistEnv,
    log: Log,
    run_directory: RunDirectory,
    write_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., None]:
    """Run evaluate on a good backbone and another, up to the first one's judgement."""
    root = run_directory.storage_root
    data_root = write_folder(
        *(f"{part}/{name}/1.png" for part in ("train", "val") for name in "ab")
    )
    torch.save(SmallResNet(2).state_dict(), root / "small.pth")
    (root / "damaged.pth").write_bytes(np.arange(400, dtype=np.uint8).tobytes())

    def reach(_: object) -> None:
        raise _Reached

    monkeypatch.setattr(evaluate._Judgement, "run", reach)

    def run(last: dict[str, str], protocols: tuple[str, ...], **changes: Any) -> None:
        values = {
            "formatVersion": 1,
            "name": run_directory.name,
            "stages": ["evaluate"],
            "device": "cpu",
            "data": {"val": "val"},
            "evaluate": {"backbones": [GOOD, last], "protocols": protocols, "cropPixels": 32}
            | {"heads": {"batchSizePerRank": 2}, "layers": [{"layer": "res5avg"}]}
            | changes,
        }
        config = check_values(values).algorithm()
        assignment = Assignment("evaluate", config, data_root, run_directory, "")
        writer = claim(run_directory, "evaluate", "submission")
        try:
            fix_samples(assignment, find_samples(assignment, 1), log, writer.check)
            evaluate.run(Context(assignment, env, log, writer))
        finally:
            writer.release()

    return run


@pytest.mark.parametrize(
    ("last", "protocols", "changes", "fault"),
    [
        (OTHER | {"layer": "res9"}, ("linear",), {}, "evaluate.backbones.1.layer: got res9, which"),
        (FILE | {"model": "resnet18"}, ("knn",), {}, "small.pth"),
        (FILE | {"path": "damaged.pth"}, ("linear",), {}, "damaged.pth"),
        (OTHER, ("linear",), {"cropPixels": 8}, "evaluate.backbones.1.model: squeezenet1_1 at 8"),
        (
            OTHER | {"layer": "features"},
            ("linear", "heads"),
            {"layers": [{"layer": "layer2"}]},
            "evaluate.layers: got layer2, which",
        ),
    ],
)
def test_a_last_backbone_that_is_wrong_ends_the_stage_before_the_first_is_judged(
    judge: Callable[..., None],
    last: dict[str, str],
    protocols: tuple[str, ...],
    changes: dict[str, Any],
    fault: str,
) -> None:
    with pytest.raises(ClusterfitError) as caught:
        judge(last, protocols, **changes)
    assert fault in str(caught.value)


def test_backbones_that_can_be_judged_are_looked_at_in_silence(
    judge: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(_Reached):
        judge(FILE, ("linear", "heads"))
    assert "loaded weights" not in capsys.readouterr().out
