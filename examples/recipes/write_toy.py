"""Write small stand-ins for all that the recipes read: what toy.yaml makes them run on.

scikit-learn's handwritten digits (Alpaydin and Kaynak, 1998, UCI, CC BY 4.0) stand in for each data
set, and untrained networks for the weights files, in the formats that the recipes expect:

    python examples/recipes/write_toy.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

from clusterfit.worker.networks.small_resnet import SmallResNet

NUM_TRAIN, NUM_VAL = 320, 80


def write_images(root: Path) -> list[list[str]]:
    """Write the images in one folder a class; return their paths by partition."""
    digits = load_digits()
    paths: list[list[str]] = [[], []]
    for number in range(NUM_TRAIN + NUM_VAL):
        partition = "val" if number >= NUM_TRAIN else "train"
        path = root / partition / str(digits.target[number]) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(digits.images[number] * (255 / 16)).astype(np.uint8)).save(path)
        paths[number >= NUM_TRAIN].append(path.relative_to(root.parent).as_posix())
    return paths


def write_lists(root: Path, paths: list[list[str]]) -> None:
    """Write lists of paths and, in VOC's way, whether each image shows each of three classes."""
    for name, listed in zip(("trainval", "test"), paths, strict=True):
        digits = np.array([int(path.split("/")[2]) for path in listed])
        shown = np.stack([digits % 2 == 0, digits > 4, np.isin(digits, [0, 6, 8, 9])], axis=1)
        labels = shown.astype(np.int8)
        labels[digits == 4, 2] = -1  # whether a 4 has a loop is a matter of handwriting
        np.save(root / f"{name}_images.npy", np.array(listed))
        np.save(root / f"{name}_labels.npy", labels)


def write_weights(folder: Path) -> None:
    """Write a VISSL checkpoint and a torchvision state dict."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    state = SmallResNet(num_classes=10).state_dict()
    torch.save(state, folder / "resnet50.pth")
    trunk = {
        f"_feature_blocks.{key}": value for key, value in state.items() if not key.startswith("fc.")
    }
    model = {"trunk": trunk, "heads": {}}
    checkpoint = {"classy_state_dict": {"base_model": {"model": model}}}
    torch.save(checkpoint, folder / "jigsaw_rn50.torch")


def main(folder: Path) -> None:
    """Write everything below a folder: images at its top, weights where runs will be."""
    for name in ("imagenet", "places205", "inaturalist18", "voc07"):
        paths = write_images(folder / name)
    write_lists(folder / "voc07", paths)
    write_weights(folder / "runs" / "weights")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    print(f"stand-ins for the recipes' data and weights in {sys.argv[1]}")
