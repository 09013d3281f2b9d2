"""Train learns each image's own cluster: its accuracies are counted again by another program.

That program is PIL, torchvision and the files of the run; nothing of the worker is in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torchvision import models
from torchvision.transforms import functional

from .conftest import CONFIG
from .door import Bench, read_json_lines

NUM_TRAIN, NUM_VAL, NUM_CLUSTERS, SIDE = 64, 24, 5, 32
MEAN, STD = [0.3, 0.4, 0.5], [0.2, 0.25, 0.3]

CHANGES: dict[str, Any] = {
    "name": "learned",
    "stages": ["extract", "cluster", "train"],
    "data.mean": MEAN,
    "data.std": STD,
    "extract.weights": {"from": "random"},
    "cluster": {"numClusters": NUM_CLUSTERS},
    # The view is the image itself, so that the network can learn its cluster by heart.
    "train": {
        "model": "shufflenet_v2_x0_5",
        "epochs": 40,
        "batchSizePerRank": 16,
        "baseLr": 0.4,
        "schedule": "cosine",
        "cropPixels": SIDE,
        "cropMinScale": 1.0,
        "colorJitter": [0, 0, 0, 0],
        "horizontalFlip": False,
        "precision": "fp32",
    },
}


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A network that two processes have trained on the clusters of digits of 32 x 32 pixels."""
    root = tmp_path_factory.mktemp("targets")
    pixels = load_digits().images * 15
    for number in range(NUM_TRAIN + NUM_VAL):
        path = root / ("train" if number < NUM_TRAIN else "val") / f"{number:04d}.png"
        path.parent.mkdir(exist_ok=True)
        image = Image.fromarray(pixels[number].astype(np.uint8)).resize((SIDE, SIDE))
        image.convert("RGB").save(path)
    bench = Bench(root, root / "runs", CONFIG).changed(CHANGES)
    bench.succeed("pipeline", 2)
    return bench


def predict(bench: Bench, partition: str) -> np.ndarray:
    """Return the (N,) clusters that the final weights predict, in the order of samples.txt."""
    model = models.shufflenet_v2_x0_5(num_classes=NUM_CLUSTERS)
    model.load_state_dict(load_file(bench.run.backbone("train")))
    model.eval()
    listed = (bench.run.data(partition) / "samples.txt").read_text(encoding="utf-8").splitlines()
    images = []
    for path in listed:
        pixels = np.asarray(Image.open(bench.data_root / path).convert("RGB"))
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        if partition == "val":  # what a crop of 224 is to a side of 256
            image = functional.resize(image, [round(SIDE * 256 / 224)], antialias=True)
            image = functional.center_crop(image, [SIDE, SIDE])
        images.append(functional.normalize(image / 255, MEAN, STD))
    with torch.inference_mode():
        predicted: np.ndarray = model(torch.stack(images)).argmax(1).numpy()
    return predicted


def test_the_network_has_learned_each_images_own_cluster(learned: Bench) -> None:
    assignments = np.load(learned.run.assignments("train"))
    hits = predict(learned, "train") == assignments
    told = read_json_lines(learned.run.stage("train") / "metrics.jsonl")[-1]
    assert hits.mean() > 0.9
    assert told["accuracy"] == pytest.approx(hits.mean(), abs=0.1)
    # Of another image's clusters it knows no more than chance: these are not alike all over.
    others = np.roll(assignments, 1)
    assert (predict(learned, "train") == others).mean() < 0.6


def test_the_held_out_accuracy_is_that_of_the_final_weights(learned: Bench) -> None:
    hits = predict(learned, "val") == np.load(learned.run.assignments("val"))
    told = read_json_lines(learned.run.stage("train") / "metrics.jsonl")[-1]
    assert told["held_out_accuracy"] == pytest.approx(hits.mean(), abs=1e-6)
    assert hits.mean() > 0.3
