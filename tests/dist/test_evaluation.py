"""Every protocol of evaluate on one, two and three processes."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterfit.artifacts.files import compute_sha256
from clusterfit.artifacts.manifest import read_manifest

from .conftest import CONFIG, NUM_TRAIN, NUM_VAL
from .door import Bench, read_json_lines

LAYERS = [
    {"layer": "conv1", "kernel": 3, "stride": 2, "padding": 1},
    {"layer": "res3", "kernel": 2},
    {"layer": "res5avg"},
]
CHANGES: dict[str, Any] = {
    "name": "judged",
    "stages": ["evaluate"],
    "evaluate.protocols": ["linear", "knn", "heads", "svm"],
    "evaluate.layers": LAYERS,
    "evaluate.heads": {"epochs": 3, "batchSizePerRank": 8, "lrMilestones": [2], "baseLr": 0.3},
    "evaluate.svm": {"costs": [0.1, 10.0], "folds": 2},
    "evaluate.backbones": [{"label": "random", "from": "random", "model": "resnet8_small"}],
}


@pytest.fixture(scope="module")
def judged(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A random network under every protocol, by two processes."""
    bench = Bench(images, tmp_path_factory.mktemp("judged") / "runs", CONFIG).changed(CHANGES)
    ending = bench.succeed("evaluate", 2)
    for table in ("accuracy on", "accuracy of linear heads", "mean average precision of SVMs"):
        assert f"judged: {table}" in ending.text
    return bench


@pytest.fixture(scope="module")
def alone(judged: Bench) -> Bench:
    """The same by one process with the same global batch."""
    bench = judged.changed({"name": "alone", "evaluate.heads.batchSizePerRank": 16})
    bench.succeed("evaluate")
    return bench


def read_row(bench: Bench) -> dict[str, Any]:
    results = json.loads(bench.run.results().read_text(encoding="utf-8"))
    row: dict[str, Any] = results["backbones"][0]
    return row


def test_each_protocol_tells_of_each_layer(judged: Bench) -> None:
    row = read_row(judged)
    assert {*row["heads"]} == {*row["svm"]} == {"conv1", "res3", "res5avg"}
    for layer in row["heads"].values():
        assert 0 <= layer["top1"] <= layer["top5"] <= 1
    for layer in row["svm"].values():
        assert len(layer["average_precisions"]) == len(layer["costs"]) == 10
        known = [value for value in layer["average_precisions"] if value is not None]
        assert layer["mean_average_precision"] == pytest.approx(np.mean(known))
        assert {*layer["costs"]} <= {0.1, 10.0}


def test_heads_learn_and_are_kept_with_their_widths(judged: Bench) -> None:
    folder = judged.run.stage("evaluate") / "heads" / "0"
    lines = read_json_lines(folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == [4, 8, 12]  # 67 images, 16 a step
    assert lines[-1]["loss"] < lines[0]["loss"]
    results = read_manifest(folder).results
    assert results["shapes"] == {"conv1": [32, 4, 4], "res3": [64, 3, 3], "res5avg": [128, 1, 1]}
    for layer, found in read_row(judged)["heads"].items():
        assert found["top1"] == results["final"][f"{layer}.top1"]


@pytest.mark.campaign  # test_pipeline.py compares three numbers for the other protocols
def test_results_do_not_depend_on_the_number_of_processes(judged: Bench, alone: Bench) -> None:
    ours, theirs = read_row(judged), read_row(alone)
    assert ours["linear"] == pytest.approx(theirs["linear"])
    assert ours["knn"] == pytest.approx(theirs["knn"])
    for layer in ours["svm"]:
        assert ours["svm"][layer]["costs"] == theirs["svm"][layer]["costs"]
        precisions = (row["svm"][layer]["mean_average_precision"] for row in (ours, theirs))
        assert next(precisions) == pytest.approx(next(precisions), abs=1e-3)
    losses = (
        [
            line["loss"]
            for line in read_json_lines(bench.run.stage("evaluate") / "heads/0/metrics.jsonl")
        ]
        for bench in (judged, alone)
    )
    assert next(losses) == pytest.approx(next(losses), rel=1e-3)


@pytest.mark.campaign
def test_a_plan_says_how_heads_are_trained(judged: Bench, alone: Bench) -> None:
    nodes = {"gpus": 0, "processesPerNode": 2}
    (stage,) = judged.changed({"platform": nodes}).plan("--num-classes=10")["stages"]
    work = {figure["name"]: figure["value"] for figure in stage["work"]}
    results = read_manifest(judged.run.stage("evaluate") / "heads" / "0").results
    assert work["global_batch_size"] == results["global_batch_size"] == 16
    assert work["num_steps"] == results["final"]["step"]
    assert results["num_samples"] == NUM_TRAIN


def test_images_that_show_several_classes_are_judged_by_svms_alone(
    images: Path, tmp_path: Path
) -> None:
    root = tmp_path / "images"
    root.mkdir()
    for partition in ("train", "val"):
        (root / partition).symlink_to(images / partition)
        paths = sorted(
            path.relative_to(images).as_posix() for path in images.glob(f"{partition}/*/*")
        )
        digits = np.array([int(path.split("/")[1]) for path in paths])
        shown = np.stack([digits % 2 == 0, digits > 4, digits == 0], 1).astype(np.int64)
        shown[digits == 3, 1] = -1
        np.save(root / f"{partition}.npy", np.array(paths))
        np.save(root / f"{partition}-labels.npy", shown)
    listed = {
        f"data.{key}": value
        for key, value in {
            "format": "filelist", "train": "train.npy", "val": "val.npy",
            "trainLabels": "train-labels.npy", "valLabels": "val-labels.npy",
        }.items()
    }  # fmt: skip
    bench = Bench(root, tmp_path / "runs", CONFIG).changed(CHANGES | listed)
    fault = bench.execute("evaluate").explain(65)  # before any process is started
    assert fault.startswith("evaluate.protocols: linear, knn, heads needs one label per image")
    assert not bench.run.data("train").exists()
    bench = bench.changed({"evaluate.protocols": ["svm"]})
    bench.succeed("evaluate")
    for layer in read_row(bench)["svm"].values():
        assert len(layer["average_precisions"]) == 3
        assert layer["mean_average_precision"] > 0.5


def test_unreadable_images_are_left_out_counted_and_named(images: Path, tmp_path: Path) -> None:
    root = tmp_path / "images"
    shutil.copytree(images, root)
    broken = {sorted(root.glob("train/*/*"))[0], *sorted(root.glob("val/*/*"))[:2]}
    for path in broken:
        path.write_text("not an image")
    fractions = {"data.maxUnreadableFraction": 2 / NUM_VAL}
    few = {"evaluate.labelsPerClass": [1], "evaluate.heads.batchSizePerRank": 16}
    bench = Bench(root, tmp_path / "runs", CONFIG).changed(CHANGES | fractions | few)
    ending = bench.succeed("evaluate", 2)
    names = {path.relative_to(root).as_posix() for path in broken}
    excluded = (bench.run.stage("evaluate") / "excluded.txt").read_text(encoding="utf-8")
    assert {line.split("\t")[0] for line in excluded.splitlines()} == names
    assert all(line.split("\t")[1] for line in excluded.splitlines())
    results = json.loads(bench.run.results().read_text(encoding="utf-8"))
    assert (results["num_train_excluded"], results["num_val_excluded"]) == (1, 2)
    told = [line for line in ending.lines if "unreadable images are left out" in line]
    assert len(told) == 2, ending.text  # once a partition, by the main rank
    assert f"judged: accuracy on {NUM_VAL - 2} held-out images" in ending.text
    assert "3 images could not be read: " in ending.text
    assert bench.artifacts("verify").code == 0


@pytest.mark.parametrize(
    "protocol",
    ["knn", *(pytest.param(each, marks=pytest.mark.campaign) for each in ("svm", "heads"))],
)
def test_too_many_unreadable_images_are_refused(
    images: Path, tmp_path: Path, protocol: str
) -> None:
    root = tmp_path / "images"
    shutil.copytree(images, root)
    for path in sorted(root.glob("val/*/*"))[:2]:
        path.write_text("not an image")
    strict = {"data.maxUnreadableFraction": 1.5 / NUM_VAL, "evaluate.protocols": [protocol]}
    bench = Bench(root, tmp_path / "runs", CONFIG).changed(CHANGES | strict)
    fault = bench.execute("evaluate").explain(65)
    assert fault.startswith(f"data.val: 2 of {NUM_VAL} images cannot be read, more than data.")


@pytest.mark.campaign
def test_heads_that_are_stopped_end_in_the_bits_of_undisturbed_ones(judged: Bench) -> None:
    """Three processes: two hide that DDP changes the order of its sums."""
    random = {"from": "random", "model": "resnet8_small"}
    changes = {
        "evaluate.protocols": ["heads"],
        "evaluate.heads.checkpointEverySteps": 2,
        "evaluate.backbones": [{"label": "one", **random}, {"label": "two", **random}],
    }
    calm = judged.changed(changes | {"name": "calm", "evaluate.heads.epochs": 30})
    calm.succeed("evaluate", 3)
    rough = calm.changed({"name": "rough"})
    process = rough.start("evaluate", 3)
    checkpoints = rough.run.stage("evaluate") / "heads" / "1" / "checkpoints"
    assert process.wait_until(lambda: len(list(checkpoints.glob("step-*"))) > 1), process.text
    process.send(signal.SIGTERM)
    stopped = process.wait()
    assert stopped.code == 143, stopped.text
    ending = rough.succeed("evaluate", 3)
    assert "msg=resumed" in ending.text
    assert 'msg="already judged" label=one' in ending.text
    assert rough.run.results().read_bytes() == calm.run.results().read_bytes()
    weights = "heads/1/model.safetensors"
    ours, theirs = (
        compute_sha256(bench.run.stage("evaluate") / weights) for bench in (rough, calm)
    )
    assert ours == theirs
