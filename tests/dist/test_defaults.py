"""What a run file leaves out: bf16 arithmetic in every stage, and parts of float16.

Features are computed again by PIL, torchvision and the weights file, in float32.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torchvision import models
from torchvision.transforms import functional

from .conftest import CONFIG, NUM_TRAIN, NUM_VAL
from .door import Bench, list_files, read_json_lines

COUNTS = {"train": NUM_TRAIN, "val": NUM_VAL}
SIDE = 8  # of the images themselves: a view changes nothing
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
LARGEST_FLOAT16 = 65504.0

CHANGES: dict[str, Any] = {
    "name": "defaults",
    "extract.model": "resnet18",
    "extract.weights": {"from": "path", "path": "resnet18.safetensors"},
    "extract.resizePixels": SIDE,
    "extract.cropPixels": SIDE,
    "pretext.epochs": 1,
    "train.epochs": 2,
}


def build_network(factor: float = 1.0) -> models.ResNet:
    """Return a random network whose last batch norm makes features larger by about a factor."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: models.ResNet = models.resnet18(num_classes=2)
    with torch.no_grad():
        network.get_submodule("layer4.1.bn2").weight *= factor
    return network.eval()


def build_bench(images: Path, root: Path, network: models.ResNet) -> Bench:
    """Return the common run file without what it says of precision and dtype."""
    config = json.loads(json.dumps(CONFIG))
    for section in ("pretext", "extract", "train", "evaluate"):
        del config[section]["precision"]
    del config["extract"]["dtype"]
    root.mkdir(parents=True)
    save_file(network.state_dict(), root / "resnet18.safetensors")
    return Bench(images, root, config).changed(CHANGES)


def compute_features(bench: Bench, network: models.ResNet, partition: str) -> np.ndarray:
    """Return (N, D) float32 features in the order of samples.txt."""
    listed = (bench.run.data(partition) / "samples.txt").read_text(encoding="utf-8").splitlines()
    images = []
    for path in listed:
        pixels = np.asarray(Image.open(bench.data_root / path).convert("RGB"))
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        images.append(functional.normalize(image / 255, MEAN, STD))
    trunk = torch.nn.Sequential(*list(network.children())[:-1])  # without its head
    with torch.inference_mode():
        features: np.ndarray = trunk(torch.stack(images)).flatten(1).numpy()
    return features


def read_parts(bench: Bench, partition: str) -> np.ndarray:
    """Return the (N, D) rows of all parts as they are on the disk."""
    paths = sorted(bench.run.features("res5avg", partition).glob("part-*.safetensors"))
    parts = [load_file(path) for path in paths]
    indices = np.concatenate([part["sample_indices"] for part in parts])
    assert indices.tolist() == list(range(COUNTS[partition]))
    return np.concatenate([part["features"] for part in parts])


def measure_error(rows: np.ndarray, exact: np.ndarray) -> float:
    """Return the length of the difference, as a fraction of the exact rows' length."""
    return float(np.linalg.norm(rows - exact) / np.linalg.norm(exact))


@pytest.fixture(scope="module")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The whole pipeline by two processes."""
    root = tmp_path_factory.mktemp("defaults") / "runs"
    bench = build_bench(images, root, build_network())
    bench.succeed("pipeline", 2)
    return bench


@pytest.mark.parametrize("partition", COUNTS)
def test_parts_hold_float16_of_what_bf16_computes(finished: Bench, partition: str) -> None:
    rows = read_parts(finished, partition)
    exact = compute_features(finished, build_network(), partition)
    assert rows.dtype == np.float16
    error = measure_error(rows.astype(np.float32), exact)
    # bf16 has 8 bits: so close and no closer. What float16 alone would cost is far less.
    assert measure_error(exact.astype(np.float16).astype(np.float32), exact) < 2**-11
    assert 2**-10 < error < 2**-6


def test_rows_of_float16_are_clustered_as_they_stand(finished: Bench) -> None:
    centroids = np.load(finished.run.centroids())
    for partition in COUNTS:
        rows = read_parts(finished, partition).astype(np.float64)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        distances_sq = ((rows[:, None] - centroids[None]) ** 2).sum(2)  # (N, K), by definition
        assignments = np.load(finished.run.assignments(partition))
        np.testing.assert_array_equal(assignments, distances_sq.argmin(1))


@pytest.mark.parametrize("stage", ["pretext", "train"])
def test_training_ends_with_finite_losses_and_float32_weights(finished: Bench, stage: str) -> None:
    lines = read_json_lines(finished.run.stage(stage) / "metrics.jsonl")
    assert len(lines) == CHANGES[f"{stage}.epochs"]
    assert all(math.isfinite(line["loss"]) for line in lines)
    weights = load_file(finished.run.backbone(stage))
    del weights["bn1.num_batches_tracked"]  # an integer
    assert {value.dtype.name for value in weights.values()} <= {"float32", "int64"}
    assert weights["conv1.weight"].dtype == np.float32
    assert all(np.isfinite(value).all() for value in weights.values())


def test_backbones_are_judged(finished: Bench) -> None:
    results = json.loads(finished.run.results().read_text(encoding="utf-8"))
    assert [row["label"] for row in results["backbones"]] == ["random", "pretext", "ClusterFit"]
    for row in results["backbones"]:
        assert all(0 <= accuracy <= 1 for accuracy in [*row["linear"].values(), row["knn"]])


# ------------------------------------------------------------------ features beyond float16


@pytest.fixture
def beyond(images: Path, tmp_path: Path) -> Bench:
    """Extract alone, by a network whose features float16 cannot hold."""
    bench = build_bench(images, tmp_path / "runs", build_network(1e7))
    return bench.changed({"stages": ["extract"]})


@pytest.mark.campaign
def test_features_beyond_float16_are_refused(beyond: Bench) -> None:
    fault = beyond.execute("extract").explain(65)
    told = re.fullmatch(
        r"extract\.dtype: features up to (\S+) do not fit float16; set extract\.dtype: float32, "
        r"or extract\.normalize: true",
        fault,
    )
    assert told, fault
    exact = compute_features(beyond, build_network(1e7), "train")
    first = exact[: CONFIG["extract"]["batchSizePerRank"]]
    assert float(told[1]) == pytest.approx(first.max(), rel=2**-6)
    assert first.max() > LARGEST_FLOAT16
    assert list_files(beyond.run.stage("extract")) == {}


@pytest.mark.campaign
def test_features_beyond_float16_fit_where_they_are_normalised(beyond: Bench) -> None:
    beyond = beyond.changed({"extract.normalize": True, "extract.precision": "fp32"})
    beyond.succeed("extract")
    for partition in COUNTS:
        rows = read_parts(beyond, partition)
        assert rows.dtype == np.float16
        exact = compute_features(beyond, build_network(1e7), partition)
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
        np.testing.assert_allclose(rows, exact, rtol=2**-10, atol=1e-6)
        lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
        np.testing.assert_allclose(lengths, 1, rtol=2**-11)


@pytest.mark.campaign
def test_features_beyond_float16_fit_float32(beyond: Bench) -> None:
    beyond = beyond.changed({"extract.dtype": "float32", "extract.precision": "fp32"})
    beyond.succeed("extract")
    rows = read_parts(beyond, "train")
    assert rows.dtype == np.float32
    exact = compute_features(beyond, build_network(1e7), "train")
    np.testing.assert_allclose(rows, exact, rtol=1e-4, atol=1e-6 * exact.max())
