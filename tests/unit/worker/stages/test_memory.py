"""Extract holds the rows of one part at a time, however many images there are."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterfit.artifacts.dataset import Samples, write_samples
from clusterfit.artifacts.layout import RunDirectory
from clusterfit.artifacts.manifest import read_manifest
from clusterfit.artifacts.owner import claim
from clusterfit.artifacts.part import write_part
from clusterfit.config.loading import check_values
from clusterfit.worker.arguments import Assignment
from clusterfit.worker.context import Context
from clusterfit.worker.distenv import DistEnv
from clusterfit.worker.log import Log
from clusterfit.worker.stages import extract

IMAGES = tuple(f"a/{number}.png" for number in range(9))


def test_no_part_outlives_its_file(
    env: DistEnv,
    log: Log,
    run_directory: RunDirectory,
    write_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = {
        "formatVersion": 1,
        "name": run_directory.name,
        "device": "cpu",
        "data": {"loadersPerRank": 0},
        "extract": {
            "model": "resnet8_small", "weights": {"from": "random"}, "cropPixels": 8,
            "resizePixels": 8, "precision": "fp32", "rowsPerPart": 2, "batchSizePerRank": 1,
        },
    }  # fmt: skip
    data_root = write_folder(*IMAGES)
    write_samples(run_directory.data("train"), Samples(IMAGES, None, ()))
    parts: list[weakref.ref[np.ndarray]] = []

    def spy(path: Path, rows: np.ndarray, *others: Any) -> Any:
        gc.collect()
        assert [part() for part in parts] == [None] * len(parts), "what is written is let go"
        parts.append(weakref.ref(rows))
        return write_part(path, rows, *others)

    monkeypatch.setattr(extract, "write_part", spy)
    config = check_values(values).algorithm()
    writer = claim(run_directory, "extract", "submission")
    assignment = Assignment("extract", config, data_root, run_directory, "")
    extract.run(Context(assignment, env, log, writer))
    writer.release()
    assert len(parts) == 5
    folder = run_directory.features(config.extract.layer, "train")
    assert read_manifest(folder).results["num_rows"] == len(IMAGES)
