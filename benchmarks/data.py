"""The features that every side is given: drawn from a seed, or real ones.

N: rows, D: dimensions, L: latent dimensions.

`relu` imitates what a convolutional network gives after its last ReLU and pooling. Rows belong to
groups whose sizes follow a power law; groups and the scatter inside them lie along latent axes
whose variances follow power laws; a random layer with ReLU makes them sparse and non-negative; rows
have norm 1, as clusterfit's step 1 has them. docs/benchmarks.md compares the spectrum and the
cluster sizes with `digits`.

`digits` is real: scikit-learn's digits, each turned and shifted a little in several ways, seen by a
ResNet that was trained on them with RotNet's pretext.

`gaussian` has no clusters at all: independent normal entries, the hardest case for whatever saves
work by structure.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from benchmarks import digits
from clusterfit.artifacts.manifest import Identity, write_manifest
from clusterfit.artifacts.part import part_name, write_part
from clusterfit.artifacts.parts import FeatureTable

ROWS_PER_PART: Final = 8192
FOLDER: Final = Path(__file__).parent / ".data"

_LATENT_DIM: Final = 512
_NUM_GROUPS: Final = 4000
_SIZE_EXPONENT: Final = 0.8
_GROUP_EXPONENT: Final = 0.75
_SCATTER_EXPONENT: Final = 0.65
_SCATTER: Final = 0.6
_BIAS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Data:
    """Which features, and how many."""

    kind: Literal["relu", "digits", "gaussian"]
    num_rows: int
    dim: int
    seed: int = 0

    @property
    def name(self) -> str:
        """Folder, and word in tables."""
        return f"{self.kind}-{self.num_rows}x{self.dim}"


def open_features(data: Data) -> Path:
    """Return the folder of these features, made if it is not there, as extract writes them."""
    folder = FOLDER / data.name
    if not (folder / "manifest.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _write(data, folder)
    return folder


def read_features(folder: Path) -> np.ndarray:
    """Return all (N, D) float32 rows in memory."""
    table = FeatureTable(folder)
    return table.read_rows(0, table.num_rows)


def read_chunks(folder: Path) -> Iterator[np.ndarray]:
    """Yield (n, D) float32 rows in order."""
    table = FeatureTable(folder)
    for _, chunk in table.chunks(0, table.num_rows, ROWS_PER_PART):
        yield chunk


def draw_initial_centroids(folder: Path, num_clusters: int, seed: int) -> np.ndarray:
    """Return (K, D) float32: distinct rows."""
    table = FeatureTable(folder)
    drawn = np.random.default_rng([seed, 7]).choice(table.num_rows, num_clusters, replace=False)
    drawn.sort()
    rows = [
        chunk[drawn[(drawn >= first) & (drawn < first + len(chunk))] - first]
        for first, chunk in table.chunks(0, table.num_rows, ROWS_PER_PART)
    ]
    return np.concatenate(rows)


def _write(data: Data, folder: Path) -> None:
    chunks = {"relu": _draw_relu, "gaussian": _draw_gaussian, "digits": _read_digits}[data.kind](
        data
    )
    names = []
    start = 0
    for number, rows in enumerate(chunks):
        indices = np.arange(start, start + len(rows))
        write_part(folder / part_name(number), rows, indices, data.name, {})
        names.append(part_name(number))
        start += len(rows)
    assert start == data.num_rows, (start, data.num_rows)
    results = {"num_samples": start, "feature_dim": data.dim}
    digest = hashlib.sha256(f"{data}".encode()).hexdigest()
    write_manifest(folder, Identity("extract", {}, {"data.train": digest}), names, results, {})


def _list_sizes(num_rows: int) -> Iterator[tuple[int, int]]:
    for number, start in enumerate(range(0, num_rows, ROWS_PER_PART)):
        yield number, min(ROWS_PER_PART, num_rows - start)


def _draw_relu(data: Data) -> Iterator[np.ndarray]:
    random = np.random.default_rng([data.seed, data.dim])
    axes = np.arange(1, _LATENT_DIM + 1)
    group_scale = (axes**-_GROUP_EXPONENT).astype(np.float32)
    scatter_scale = (_SCATTER * axes**-_SCATTER_EXPONENT).astype(np.float32)
    means = random.standard_normal((_NUM_GROUPS, _LATENT_DIM), np.float32) * group_scale
    layer = random.standard_normal((_LATENT_DIM, data.dim), np.float32)  # (L, D)
    layer /= np.sqrt((group_scale**2 + scatter_scale**2).sum())
    bias = (_BIAS + 0.5 * random.standard_normal(data.dim)).astype(np.float32)
    sizes = np.arange(1, _NUM_GROUPS + 1) ** -_SIZE_EXPONENT
    for number, count in _list_sizes(data.num_rows):
        random = np.random.default_rng([data.seed, data.dim, number])
        groups = random.choice(_NUM_GROUPS, count, p=sizes / sizes.sum())
        scatter = random.standard_normal((count, _LATENT_DIM), np.float32) * scatter_scale
        rows = np.maximum((means[groups] + scatter) @ layer + bias, 0)  # (n, D)
        yield rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _draw_gaussian(data: Data) -> Iterator[np.ndarray]:
    for number, count in _list_sizes(data.num_rows):
        random = np.random.default_rng([data.seed, data.dim, number])
        yield random.standard_normal((count, data.dim), np.float32)


def _read_digits(data: Data) -> Iterator[np.ndarray]:
    features = digits.extract(FOLDER / "digits-run")
    assert features.shape == (data.num_rows, data.dim), features.shape
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    for first in range(0, data.num_rows, ROWS_PER_PART):
        yield features[first : first + ROWS_PER_PART]
