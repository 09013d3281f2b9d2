"""Are two runs' artifacts the same? Whatever happened on the way, they must be."""

from __future__ import annotations

import json

import numpy as np

from clusterfit.artifacts.layout import PARTITIONS, RunDirectory
from clusterfit.artifacts.verify import find_faults


def check_whole(run: RunDirectory) -> None:
    """Hold every file of a run against its manifest."""
    assert list(find_faults(run)) == []


def check_same_step1(run: RunDirectory, reference: RunDirectory) -> None:
    """Compare features and assignments that were made with the same weights.

    The order of a machine's sums may move single samples across a border: 99 % must agree.
    """
    for partition in PARTITIONS:
        names = ("samples.txt", "labels.npy")
        for name in names:
            ours, theirs = run.data(partition) / name, reference.data(partition) / name
            assert ours.read_bytes() == theirs.read_bytes()
        assert read_feature_manifest(run, partition) == read_feature_manifest(reference, partition)
        ours, theirs = (np.load(each.assignments(partition)) for each in (run, reference))
        assert ours.shape == theirs.shape
        assert np.mean(ours == theirs) >= 0.99


def check_same_weights(run: RunDirectory, reference: RunDirectory, stage: str) -> None:
    """Compare the network that a stage has trained: bit for bit, as both had four ranks."""
    ours, theirs = run.backbone(stage).read_bytes(), reference.backbone(stage).read_bytes()
    assert ours == theirs


def read_feature_manifest(run: RunDirectory, partition: str) -> tuple[str, list[str]]:
    """Return what tells features apart: the fingerprint, and which parts there are."""
    manifest = json.loads((run.features("res5avg", partition) / "manifest.json").read_text())
    return manifest["fingerprint"], [record["path"] for record in manifest["files"]]
