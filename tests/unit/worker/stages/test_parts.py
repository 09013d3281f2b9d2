"""Extract holds the rows of one part at a time, and loads the next one while it writes it."""

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
from clusterfit.worker.data.images import Batch
from clusterfit.worker.distenv import DistEnv
from clusterfit.worker.log import Log
from clusterfit.worker.stages import extract

IMAGES = tuple(f"a/{number}.png" for number in range(9))


Write = Callable[[Path, np.ndarray], None]


@pytest.fixture
def extract_parts(
    env: DistEnv,
    log: Log,
    run_directory: RunDirectory,
    write_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[int, Write], None]:
    """Extract nine images in five parts with so many loaders, and look at what is written."""

    def run(loaders: int, look: Write) -> None:
        values = {
            "formatVersion": 1,
            "name": run_directory.name,
            "device": "cpu",
            "data": {"loadersPerRank": loaders},
            "extract": {
                "model": "resnet8_small", "weights": {"from": "random"}, "cropPixels": 8,
                "resizePixels": 8, "precision": "fp32", "rowsPerPart": 2, "batchSizePerRank": 1,
            },
        }  # fmt: skip

        def spy(path: Path, rows: np.ndarray, *others: Any) -> Any:
            look(path, rows)
            return write_part(path, rows, *others)

        data_root = write_folder(*IMAGES)
        write_samples(run_directory.data("train"), Samples(IMAGES, None, ()))
        monkeypatch.setattr(extract, "write_part", spy)
        config = check_values(values).algorithm()
        writer = claim(run_directory, "extract", "submission")
        assignment = Assignment("extract", config, data_root, run_directory, "")
        extract.run(Context(assignment, env, log, writer))
        writer.release()
        folder = run_directory.features(config.extract.layer, "train")
        assert read_manifest(folder).results["num_rows"] == len(IMAGES)

    return run


def test_no_part_outlives_its_file(extract_parts: Callable[[int, Write], None]) -> None:
    batches: list[weakref.ref[np.ndarray]] = []
    held: list[int] = []
    add = extract._Rows.add

    def watch(rows: extract._Rows, batch: Batch, features: np.ndarray | None) -> None:
        assert features is not None
        batches.append(weakref.ref(features))
        add(rows, batch, features)

    def look(_path: Path, _rows: np.ndarray) -> None:
        gc.collect()
        held.append(sum(batch() is not None for batch in batches))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract._Rows, "add", watch)
        extract_parts(0, look)
    assert held == [2, 2, 2, 2, 1], "batches of the part that is written, and of no other"


def test_the_next_part_is_loaded_while_one_is_written(
    env: DistEnv, extract_parts: Callable[[int, Write], None]
) -> None:
    claimed: dict[str, int] = {}

    def look(path: Path, _rows: np.ndarray) -> None:
        claimed[path.name] = env.store.add("train/claimed", 0)

    extract_parts(1, look)
    assert list(claimed) == [f"part-0000{number}.safetensors" for number in range(5)]
    # A loader is two batches ahead, which is one part here; the last claim finds nothing.
    assert list(claimed.values()) == [2, 3, 4, 6, 6]
