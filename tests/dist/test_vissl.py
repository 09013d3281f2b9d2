"""A VISSL user's features are clustered; the labels that come out, or theirs, are trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from clusterfit.artifacts.manifest import read_manifest
from clusterfit.cli import main
from clusterfit.logline import parse_line

from .conftest import CONFIG, NUM_TRAIN
from .door import Bench


def write_chunks(folder: Path) -> np.ndarray:
    """Write features of four kinds of images as two ranks of VISSL's extraction do."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 4, NUM_TRAIN)
    features = np.eye(4, 6, dtype=np.float32)[kinds] + rng.normal(0, 0.01, (NUM_TRAIN, 6))
    order = [*rng.permutation(NUM_TRAIN), 0]  # one row of padding
    folder.mkdir()
    for rank in range(2):
        rows = np.array(order[rank::2])
        stem = f"{folder}/rank{rank}_chunk0_train_res5"
        np.save(f"{stem}_features.npy", features[rows].astype(np.float32))
        np.save(f"{stem}_inds.npy", rows)
    return kinds


@pytest.fixture(scope="module")
def clustered(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """VISSL's features taken over and clustered, and a network trained on the clusters."""
    root = tmp_path_factory.mktemp("vissl")
    bench = Bench(images, root / "runs", CONFIG).changed(
        {
            "stages": ["cluster", "train"], "inputs": {"features": "theirs"}, "data.val": "",
            "cluster.numClusters": 4, "train.epochs": 1,
        }
    )  # fmt: skip
    kinds = write_chunks(root / "chunks")
    np.save(root / "kinds.npy", kinds)
    run_file = root / "run.yaml"
    run_file.write_text(json.dumps(bench.config))
    call(bench, "import-features", str(root / "chunks"), "-f", str(run_file),
         f"--data-root={images}")  # fmt: skip
    bench.succeed("pipeline")
    return bench


def call(bench: Bench, *arguments: str) -> None:
    """Run `clusterfit artifacts` on the bench's storage root."""
    with pytest.raises(SystemExit) as ending:
        main(["artifacts", *arguments, f"--storage-root={bench.storage_root}"])
    assert ending.value.code in {None, 0}


def test_clusters_of_vissls_features_are_those_of_the_images(clustered: Bench) -> None:
    kinds = np.load(clustered.storage_root.parent / "kinds.npy")
    assignments = np.load(clustered.run.assignments("train"))
    pairs = set(zip(assignments.tolist(), kinds.tolist(), strict=True))
    assert len(pairs) == 4, "each cluster is one kind of image, whatever its number"


def test_labels_out_and_in_again_train_the_same_network(clustered: Bench) -> None:
    """Step 2 on the run's own clusters, and on the labels.npy that was exported of them."""
    folder = clustered.storage_root / "labels"
    call(clustered, "export", "tiny", "cluster", "--format", "vissl", "-o", str(folder))
    given = clustered.changed(
        {
            "name": "given",
            "stages": ["train"],
            "inputs": {"assignments": "labels/labels.npy"},
        }
    )
    ending = given.succeed("train")
    assert "num_clusters=4" in ending.text
    inputs = [read_manifest(bench.run.stage("train")).inputs for bench in (clustered, given)]
    assert inputs[0]["assignments"] != inputs[1]["assignments"]
    ours, theirs = (load_file(bench.run.backbone("train")) for bench in (clustered, given))
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.campaign  # test_pipeline.py holds a plan against a run as well
def test_a_plan_counts_the_labels_that_are_given(clustered: Bench) -> None:
    """Images without a label are not trained on, and the head has as many outputs as labels."""
    labels = np.arange(NUM_TRAIN) % 7
    labels[: NUM_TRAIN // 2] = -1
    np.save(clustered.storage_root / "some.npy", labels)
    some = clustered.changed(
        {
            "name": "some", "stages": ["train"], "inputs": {"assignments": "some.npy"},
            "train.epochs": 1,
            "platform": {"gpus": 0, "nodesWithoutGpus": 1, "processesPerNode": 2},
        }
    )  # fmt: skip
    (stage,) = some.plan(f"--storage-root={some.storage_root}")["stages"]
    ending = some.succeed("train", 2)
    told = {
        line["name"]: line["value"]
        for line in map(parse_line, ending.text.splitlines())
        if line and line["msg"] == "derived"
    }
    planned = {figure["name"]: figure["value"] for figure in stage["work"]}
    batch = planned["global_batch_size"]
    assert int(told["num_steps"]) == planned["num_steps"] == (NUM_TRAIN - NUM_TRAIN // 2) // batch
    storage = {figure["name"]: figure["value"] for figure in stage["storage"]}
    size = some.run.backbone("train").stat().st_size
    assert size == pytest.approx(storage["train/model.safetensors"], rel=0.02)
