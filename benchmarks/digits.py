"""Real features: scikit-learn's digits in many poses, seen by a small ResNet that knows digits.

Each of the 1,438 training digits is turned by four angles and shifted to five places. The network
is trained on the plain digits with RotNet's pretext and read out before its pooling, by
clusterfit's own stages: 128 channels of 2 x 2, so D = 512.
"""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image
from scipy.ndimage import rotate, shift
from sklearn.datasets import load_digits

from clusterfit.artifacts.parts import FeatureTable

ANGLES: Final = (-15.0, -5.0, 5.0, 15.0)
SHIFTS: Final = ((0.0, 0.0), (0.5, 0.5), (0.5, -0.5), (-0.5, 0.5), (-0.5, -0.5))
NUM_ROWS: Final = 1438 * len(ANGLES) * len(SHIFTS)
DIM: Final = 512

_ROOT: Final = Path(__file__).parents[1]
_SETTINGS: Final = (
    'name="posed"', 'stages=["extract"]', 'data.train="posed/train"', 'data.val=""',
    'extract.weights={"from": "path", "path": "digits/pretext/model.safetensors"}',
    'extract.layer="res4"', 'extract.pooling="none"', "extract.rowsPerPart=8192",
)  # fmt: skip


def extract(folder: Path) -> np.ndarray:
    """Return (NUM_ROWS, DIM) float32; images and the network are made in `folder`."""
    _write_images(folder / "posed")
    subprocess.run(
        [sys.executable, _ROOT / "examples" / "write_digits.py", folder / "digits"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    _run(folder, "pretext")
    settings = [word for setting in _SETTINGS for word in ("--set", setting)]
    _run(folder, "extract", *settings)
    [part_folder] = (folder / "runs" / "posed" / "extract").glob("*/train")
    table = FeatureTable(part_folder)
    return table.read_rows(0, table.num_rows)


def _run(folder: Path, stage: str, *arguments: str) -> None:
    command = ["run", stage, "-f", str(_ROOT / "examples" / "digits.yaml")]
    command += ["--data-root", str(folder), "--storage-root", str(folder / "runs")]
    command += ["--nproc-per-node", "2", *arguments]
    program = "from clusterfit.cli import main; main()"
    subprocess.run([sys.executable, "-c", program, *command], check=True)


def _write_images(folder: Path) -> None:
    images = load_digits().images  # (1797, 8, 8), 0..16
    for number in (n for n in range(len(images)) if n % 5 != 4):
        target = folder / "train" / f"{number:04d}"
        target.mkdir(parents=True, exist_ok=True)
        for pose, (angle, offset) in enumerate(product(ANGLES, SHIFTS)):
            turned = rotate(images[number], angle, reshape=False, order=1)
            moved = np.clip(shift(turned, offset, order=1), 0, 16)
            grey = np.round(moved * (255 / 16)).astype(np.uint8)
            Image.fromarray(grey).save(target / f"{pose:02d}.png")
