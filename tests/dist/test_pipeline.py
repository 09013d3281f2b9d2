"""Every stage through `clusterfit run`, at one, two and three processes."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from clusterfit.artifacts.dataset import read_samples
from clusterfit.artifacts.manifest import read_manifest
from clusterfit.artifacts.parts import FeatureTable
from clusterfit.logline import parse_line

from .conftest import CONFIG, NUM_TRAIN, NUM_VAL
from .door import Bench, list_files, read_json_lines

COUNTS = {"train": NUM_TRAIN, "val": NUM_VAL}
NEIGHBORS, TEMPERATURE = 5, 0.1


@pytest.fixture(scope="module")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The whole pipeline by two processes."""
    bench = Bench(images, tmp_path_factory.mktemp("pipeline") / "runs", CONFIG)
    ending = bench.succeed("pipeline", 2)
    assert "accuracy on 13 held-out images" in ending.text
    return bench


@pytest.fixture(scope="module", params=[1, 3])
def repeated(finished: Bench, request: pytest.FixtureRequest) -> Bench:
    """Features, clusters and accuracies from the same weights, by another number of processes."""
    nproc = request.param
    weights = {"from": "path", "path": "tiny/pretext/model.safetensors"}
    backbones = [
        {"label": "random", "from": "random", "model": "resnet8_small"},
        {"label": "pretext", "from": "run", "run": "tiny", "stage": "pretext"},
        {"label": "ClusterFit", "from": "run", "run": "tiny", "stage": "train"},
    ]
    bench = finished.changed(
        {
            "name": f"tiny-{nproc}",
            "stages": ["extract", "cluster", "evaluate"],
            "extract.weights": weights,
            "evaluate.backbones": backbones,
        }
    )
    bench.succeed("pipeline", nproc)
    return bench


def test_every_image_has_its_row_in_the_data_sets_order(finished: Bench) -> None:
    for partition, count in COUNTS.items():
        table = FeatureTable(finished.run.features("res5avg", partition))
        assert table.sample_indices.tolist() == list(range(count))
        assert len(table.read_rows(0, count)) == count
        samples = read_samples(finished.run.data(partition))
        assert list(samples.paths) == sorted(samples.paths)
        assert len(samples.paths) == count


def test_every_image_has_its_cluster_and_its_distance(finished: Bench) -> None:
    centroids = np.load(finished.run.centroids())
    for partition, count in COUNTS.items():
        assignments = np.load(finished.run.assignments(partition))
        rows = FeatureTable(finished.run.features("res5avg", partition)).read_rows(0, count)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        distances_sq = ((rows[:, None] - centroids[None]) ** 2).sum(2)  # (N, K), by definition
        np.testing.assert_array_equal(assignments, distances_sq.argmin(1))
        np.testing.assert_allclose(
            np.load(finished.run.distances_sq(partition)), distances_sq.min(1), atol=1e-5
        )


def test_the_cluster_manifest_tells_objective_and_sizes(finished: Bench) -> None:
    results = read_manifest(finished.run.stage("cluster")).results
    assert len(results["objectives"]) == CONFIG["cluster"]["numIterations"]
    assert results["objectives"] == sorted(results["objectives"], reverse=True)
    for partition, count in COUNTS.items():
        told = results["partitions"][partition]
        sizes = Counter(np.load(finished.run.assignments(partition)).tolist())
        num_clusters = results["num_clusters"]
        assert told["sizes"] == [sizes[cluster] for cluster in range(num_clusters)]
        assert sum(told["sizes"]) == count
        assert told["num_empty"] == num_clusters - len(sizes)
        # As faiss has it: how many times more an image meets in its cluster than if all were alike.
        imbalance = num_clusters * sum(size**2 for size in sizes.values()) / count**2
        assert told["imbalance"] == pytest.approx(imbalance, abs=1e-4)


@pytest.mark.parametrize("stage", ["pretext", "train"])
def test_metrics_hold_one_sane_line_an_epoch(finished: Bench, stage: str) -> None:
    lines = read_json_lines(finished.run.stage(stage) / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["step"] for line in lines] == [4, 8, 12]  # 67 images, 16 a step
    for line in lines:
        assert math.isfinite(line["loss"])
        assert 0 <= line["accuracy"] <= 1
        assert line["images_per_second"] > 0
        assert ("held_out_accuracy" in line) == (stage == "train")


@pytest.mark.parametrize(("stage", "num_classes"), [("pretext", 4), ("train", 7)])
def test_trained_weights_load_by_key(finished: Bench, stage: str, num_classes: int) -> None:
    import torch

    from clusterfit.worker.networks.small_resnet import SmallResNet

    state = load_file(finished.run.backbone(stage))
    model = SmallResNet(num_classes)
    model.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})


def test_evaluate_tells_the_accuracies_of_each_backbone(finished: Bench) -> None:
    results = json.loads(finished.run.results().read_text(encoding="utf-8"))
    assert [row["label"] for row in results["backbones"]] == ["random", "pretext", "ClusterFit"]
    for row in results["backbones"]:
        assert {*row["linear"]} == {"all", "2"}
        assert all(0 <= accuracy <= 1 for accuracy in [*row["linear"].values(), row["knn"]])


def test_a_second_run_skips_every_stage_changes_no_file_and_loads_no_torch(
    finished: Bench, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('loaded')", encoding="utf-8")
    before = list_files(finished.run.root)
    ending = finished.execute("pipeline", 2, PYTHONPATH=str(tmp_path))
    assert ending.code == 0, ending.text
    assert ending.text.count('msg="already finished"') == 5
    assert list_files(finished.run.root) == before


def test_artifacts_lists_and_verifies_what_was_made(finished: Bench) -> None:
    listed = finished.artifacts("ls")
    names = {line.split()[0] for line in listed.lines}
    assert listed.code == 0
    parts = {"extract/res5avg/train", "extract/res5avg/val"}
    assert names == {f"tiny/{name}" for name in {"pretext", "cluster", "train", "evaluate", *parts}}
    verified = finished.artifacts("verify")
    assert verified.code == 0, verified.text
    assert "of 6 artifacts: all is as the manifests say" in verified.text


def test_logs_keep_what_each_rank_said(finished: Bench) -> None:
    for stage in CONFIG["stages"]:
        folder = finished.run.root / "logs" / stage / "attempt-1"
        assert sorted(path.name for path in folder.iterdir()) == [
            "rank-00000.log", "rank-00001.log",
        ]  # fmt: skip


def test_a_plan_says_beforehand_what_is_then_logged_and_written(finished: Bench) -> None:
    nodes = {"gpus": 0, "nodesWithoutGpus": 1, "processesPerNode": 2}
    planned = finished.changed({"platform": nodes}).plan()
    assert planned["images"] == COUNTS
    for stage in planned["stages"]:
        name = stage["stage"]
        log = (finished.run.root / f"logs/{name}/attempt-1/rank-00000.log").read_text("utf-8")
        lines = [fields for fields in map(parse_line, log.splitlines()) if fields]
        assert stage["pods"]["world_size"] == int(
            next(line["world_size"] for line in lines if line["msg"] == "process group")
        )
        told = {line["name"]: line for line in lines if line["msg"] == "derived"}
        assert bool(told) == (name in {"pretext", "train"})
        work = {figure["name"]: figure for figure in stage["work"]}
        for key, line in told.items():
            assert line["because"] == work[key]["because"]
            assert line["value"] == str(
                work[key]["value"] or ("none" if key == "decay_steps" else 0)
            )
        for figure in stage["storage"]:
            path = finished.run.root / figure["name"]
            found = _measure(path)
            if figure["name"].startswith("logs/") or path.name == "checkpoints":
                assert found <= figure["value"]  # short epochs end without a checkpoint
            elif path.suffix == ".safetensors":
                assert found == pytest.approx(figure["value"], rel=0.02)
    _check_arrays(finished, planned)


def _measure(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder that need not be there."""
    files = list_files(path) or list_files(path.parent)
    return sum(size for name, (_, size, _) in files.items() if path.is_dir() or name == path.name)


def _check_arrays(bench: Bench, planned: dict[str, Any]) -> None:
    """Hold the numbers of arrays against the plan; manifests and headers are beside them."""
    storage = {
        figure["name"]: figure["value"]
        for stage in planned["stages"]
        for figure in stage["storage"]
    }
    work = {
        figure["name"]: figure["value"] for stage in planned["stages"] for figure in stage["work"]
    }
    for partition, count in COUNTS.items():
        folder = bench.run.features("res5avg", partition)
        table = FeatureTable(folder)
        assert table.feature_dim == work["feature_dim"]
        assert len(list(folder.glob("part-*"))) == work[f"parts of {partition}"]
        assert storage[f"extract/res5avg/{partition}"] == count * (table.feature_dim * 4 + 8)
        arrays = (bench.run.assignments(partition), bench.run.distances_sq(partition))
        assert storage[f"cluster/{partition}"] == sum(np.load(path).nbytes for path in arrays)
    centroids = np.load(bench.run.centroids())
    first = np.load(bench.run.centroids().with_name("initial_centroids.npy"))
    assert storage["cluster/*.npy"] == centroids.nbytes + first.nbytes
    assert centroids.shape == (work["num_clusters"], work["dim"])


def test_nothing_is_left_running_or_half_written(finished: Bench) -> None:
    assert finished.find_processes() == []
    assert [path.name for path in finished.run.root.rglob(".*")] == []
    assert not finished.run.owner_file.exists()


def test_features_do_not_depend_on_the_number_of_processes(
    finished: Bench, repeated: Bench
) -> None:
    for partition, count in COUNTS.items():
        ours, theirs = (
            FeatureTable(bench.run.features("res5avg", partition)).read_rows(0, count)
            for bench in (finished, repeated)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_clusters_do_not_depend_on_the_number_of_processes(
    finished: Bench, repeated: Bench
) -> None:
    for partition in COUNTS:
        ours, theirs = (np.load(bench.run.assignments(partition)) for bench in (finished, repeated))
        names = {int(mine): int(its) for mine, its in zip(ours, theirs, strict=True)}
        renamed = np.array([names[cluster] for cluster in ours.tolist()])
        assert len(set(names.values())) == len(names)
        assert (renamed == theirs).mean() >= 0.99


def test_accuracies_do_not_depend_on_the_number_of_processes(
    finished: Bench, repeated: Bench
) -> None:
    ours, theirs = (_read_accuracies(bench) for bench in (finished, repeated))
    assert ours == pytest.approx(theirs, abs=1e-6)


@pytest.mark.campaign
def test_a_backbone_from_a_file_is_the_one_that_is_judged(finished: Bench) -> None:
    """Of each, a copy of its file beside what the run knows, and the vote counted again."""
    model = {"from": "path", "model": "resnet8_small"}
    backbones: list[dict[str, Any]] = []
    for stage in ("pretext", "train"):
        copy = f"copies/{stage}.safetensors"
        (finished.storage_root / "copies").mkdir(exist_ok=True)
        shutil.copy(finished.run.backbone(stage), finished.storage_root / copy)
        backbones += [
            {"label": f"{stage} of the run", "from": "run", "run": "tiny", "stage": stage},
            {"label": f"{stage} of a file", "path": copy, **model},
        ]
    bench = finished.changed(
        {
            "name": "from-files",
            "stages": ["evaluate"],
            "evaluate.backbones": backbones,
            "evaluate.protocols": ["linear", "knn", "svm"],
            "evaluate.layers": [{"layer": "res5avg"}],
            "evaluate.svm": {"costs": [1.0], "folds": 2},
            "evaluate.neighbors": NEIGHBORS,
            "evaluate.temperature": TEMPERATURE,
        }
    )
    bench.succeed("evaluate")
    results = json.loads(bench.run.results().read_text(encoding="utf-8"))
    rows = {row.pop("label"): row for row in results["backbones"]}
    for stage in ("pretext", "train"):
        assert rows[f"{stage} of a file"] == rows[f"{stage} of the run"]
        assert rows[f"{stage} of a file"]["knn"] == pytest.approx(_vote(finished, stage))
    precisions = [rows[f"{stage} of a file"]["svm"] for stage in ("pretext", "train")]
    assert precisions[0] != precisions[1], "another file, other numbers"


def _vote(bench: Bench, stage: str) -> float:
    """Return the accuracy of a stage's network under the vote of the nearest, by definition."""
    import torch
    from torchvision.transforms import v2

    from clusterfit.worker.networks.small_resnet import SmallResNet

    state = load_file(bench.run.backbone(stage))
    model = SmallResNet(len(state["fc.bias"]))
    model.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    model.fc = torch.nn.Identity()  # type: ignore[assignment]
    recipe = CONFIG["evaluate"]
    view = v2.Compose(
        [
            v2.Resize(recipe["resizePixels"], antialias=True),
            v2.CenterCrop(recipe["cropPixels"]),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    directions, labels = [], []
    for partition in ("train", "val"):
        paths = sorted((bench.data_root / partition).rglob("*.png"))
        labels.append(np.array([int(path.parent.name) for path in paths]))
        pixels = np.stack([np.array(Image.open(path).convert("RGB")) for path in paths])
        images = view(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        with torch.inference_mode():
            features = model.eval()(images).double().numpy()
        directions.append(features / np.linalg.norm(features, axis=1, keepdims=True))
    cosines = directions[1] @ directions[0].T  # (val, train)
    hits = []
    for similarities, label in zip(cosines, labels[1], strict=True):
        nearest = np.argsort(-similarities)[:NEIGHBORS]
        weights = np.exp(similarities[nearest] / TEMPERATURE)
        votes = np.bincount(labels[0][nearest], weights, minlength=10)
        hits.append(votes.argmax() == label)
    return float(np.mean(hits))


@pytest.mark.campaign
def test_a_partition_of_one_image_is_evaluated_by_two_processes(
    finished: Bench, tmp_path: Path
) -> None:
    name = read_samples(finished.run.data("val")).paths[0]
    lonely = tmp_path / "images" / name
    lonely.parent.mkdir(parents=True)
    lonely.write_bytes((finished.data_root / name).read_bytes())
    (tmp_path / "images" / "train").symlink_to(finished.data_root / "train")
    bench = finished.changed(
        {
            "name": "lonely",
            "stages": ["evaluate"],
            "evaluate.backbones": [{"label": "r", "from": "random", "model": "resnet8_small"}],
        },
        data_root=tmp_path / "images",
    )
    bench.succeed("pipeline", 2)
    accuracies = _read_accuracies(bench)
    assert {*accuracies.values()} <= {0.0, 1.0}


def _read_accuracies(bench: Bench) -> dict[str, float]:
    results: dict[str, Any] = json.loads(bench.run.results().read_text(encoding="utf-8"))
    return {
        f"{row['label']}/{name}": accuracy
        for row in results["backbones"]
        for name, accuracy in [*row["linear"].items(), ("knn", row["knn"])]
    }
