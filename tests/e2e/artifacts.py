"""Are two runs' artifacts the same? Whatever happened on the way, they must be."""

from __future__ import annotations

import json

import numpy as np
import pytest

from clusterfit.artifacts.layout import PARTITIONS, RunDirectory
from clusterfit.artifacts.parts import FeatureTable
from clusterfit.artifacts.verify import find_faults


def check_whole(run: RunDirectory) -> None:
    """Hold every file of a run against its manifest."""
    assert list(find_faults(run)) == []


def check_same_step1(run: RunDirectory, reference: RunDirectory) -> None:
    """Compare features and assignments that were made with the same weights.

    The order of a machine's sums may move single samples across a border: 99 % must agree.
    """
    check_same_features(run, reference)
    # Of all of them: a partition may have too few to say so of it alone.
    ours, theirs = (
        [np.load(each.assignments(partition)) for partition in PARTITIONS]
        for each in (run, reference)
    )
    assert [len(part) for part in ours] == [len(part) for part in theirs]
    assert np.mean(np.concatenate(ours) == np.concatenate(theirs)) >= 0.99


def check_same_features(run: RunDirectory, reference: RunDirectory) -> None:
    """Compare features row by row: each sample once, whatever pods wrote them."""
    for partition in PARTITIONS:
        ours, theirs = (
            FeatureTable(each.features("res5avg", partition)) for each in (run, reference)
        )
        assert ours.data_fingerprint == theirs.data_fingerprint
        assert np.array_equal(ours.sample_indices, theirs.sample_indices)
        rows, wanted = (table.read_rows(0, table.num_rows) for table in (ours, theirs))
        np.testing.assert_allclose(rows, wanted, rtol=1e-4, atol=1e-5)


def check_same_training(run: RunDirectory, reference: RunDirectory, stage: str) -> None:
    """Compare what a stage has trained, bit for bit, as both had four ranks; and its metrics.

    A loss is summed in another order where the training was resumed within its epoch.
    """
    ours, theirs = run.backbone(stage).read_bytes(), reference.backbone(stage).read_bytes()
    assert ours == theirs
    metrics, wanted = (_read_metrics(each, stage) for each in (run, reference))
    assert len(metrics) == len(wanted)
    for line, other in zip(metrics, wanted, strict=True):
        assert line == pytest.approx(other)


def _read_metrics(run: RunDirectory, stage: str) -> list[dict[str, float]]:
    """Return the metrics of each epoch, without how fast it was."""
    lines = map(json.loads, (run.stage(stage) / "metrics.jsonl").read_text().splitlines())
    return [{key: line[key] for key in line.keys() - {"images_per_second"}} for line in lines]


def check_same_results(run: RunDirectory, reference: RunDirectory) -> None:
    """Compare what evaluate found of the same networks.

    The order of sums may decide on single images of few: one or two are let pass.
    """
    ours, theirs = (json.loads(each.results().read_text()) for each in (run, reference))
    margin = 2.5 / ours["num_val"]
    assert len(ours["backbones"]) == len(theirs["backbones"]) > 1
    for row, wanted in zip(ours["backbones"], theirs["backbones"], strict=True):
        accuracies, expected = (
            each.pop("linear") | {"knn": each.pop("knn")} for each in (row, wanted)
        )
        assert accuracies == pytest.approx(expected, abs=margin)
        assert row == wanted
