"""Features that VISSL extracted, read in the data set's order.

Each rank of VISSL's extraction writes chunks of three arrays, `rank<r>_chunk<c>_<partition>_
<layer>_{features,inds,targets}.npy`; until 2021 it wrote one of all its rows, without `chunk<c>_`.
Rows are in the sampler's order, the sampler pads with
duplicates, files of an earlier run with more ranks or chunks stay in the folder, and some versions
write float64. Source: `_save_extracted_features` in vissl/trainer/trainer_main.py, and
vissl/utils/extract_features_utils.py.

N: images of the data set, D: feature_dim, n: rows of a chunk or a slice, R: rows of all chunks.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from clusterfit.artifacts.files import read_array
from clusterfit.errors import InvalidDataError, MissingInputError

_NAME: Final = re.compile(r"rank(?P<rank>\d+)_(chunk(?P<chunk>\d+)_)?(?P<rest>.+)_features\.npy")

_SAME_ROW_TOLERANCE: Final = 1e-2
"""Relative distance within which two extractions of one image are the same: the rounding of half
precision on two kinds of GPU lies below, another network's features far above."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    name: str
    rank: int
    number: int | None
    """None: all of the rank's rows, as VISSL wrote them until 2021."""
    features: np.ndarray  # (n, D), memory-mapped
    sample_indices: np.ndarray  # (n,) int64
    targets: np.ndarray | None  # (n, ...)


class VisslFeatures:
    """The features of one partition and layer; rows are read from disk as they are asked for."""

    def __init__(
        self, folder: Path, partition: str, layer: str, num_samples: int | None = None
    ) -> None:
        """Open a folder's chunks and find where each image's row is.

        Args:
            folder: Where VISSL's extraction wrote, its CHECKPOINT.DIR.
            partition: `train` or `test`, as VISSL names it.
            layer: As VISSL names it: res5avg, heads and so on.
            num_samples: Images of the data set, N; None: as many as the largest index says.

        Raises:
            MissingInputError: no chunk of that partition and layer is there.
            InvalidDataError: a chunk is damaged or incomplete, chunks of several runs are mixed,
                or images have no row.
        """
        self._folder = folder
        self._chunks = _open_chunks(folder, partition, layer)
        indices = np.concatenate([chunk.sample_indices for chunk in self._chunks])  # (R,)
        owners = np.repeat(
            np.arange(len(self._chunks)), [len(chunk.sample_indices) for chunk in self._chunks]
        )
        rows = np.concatenate([np.arange(len(chunk.sample_indices)) for chunk in self._chunks])
        self.num_samples = int(indices.max()) + 1 if num_samples is None else num_samples
        self.feature_dim = int(self._chunks[0].features.shape[1])
        present, first = np.unique(indices, return_index=True)
        self._check_complete(present)
        self._owners, self._rows = owners[first], rows[first]  # (N,)
        repeated = np.setdiff1d(np.arange(len(indices)), first)
        self.num_duplicates = len(repeated)
        """Rows beside the first of each image: what the sampler padded with."""
        self._check_duplicates(indices[repeated], owners[repeated], rows[repeated])

    @property
    def files(self) -> list[Path]:
        """Every file that features come from, in the order of ranks and chunks."""
        return [
            self._folder / name
            for chunk in self._chunks
            for name in (chunk.name, chunk.name.replace("_features.npy", "_inds.npy"))
        ]

    def read(self, sample_indices: np.ndarray) -> np.ndarray:
        """Return the features of these images, (n, D) float32.

        Raises:
            InvalidDataError: a value is not finite.
        """
        features = np.empty((len(sample_indices), self.feature_dim), np.float32)
        owners, rows = self._owners[sample_indices], self._rows[sample_indices]
        for number in np.unique(owners):
            places = np.flatnonzero(owners == number)
            features[places] = self._chunks[number].features[rows[places]]
        finite = np.isfinite(features).all(axis=1)
        if not finite.all():
            index = int(sample_indices[np.flatnonzero(~finite)[0]])
            name = self._chunks[self._owners[index]].name
            raise InvalidDataError(
                f"{self._folder / name}: the features of image {index} are not all finite; extract "
                "them again"
            )
        return features

    def read_targets(self) -> np.ndarray | None:
        """Return the labels that VISSL stored, (N,) int64, or None where it stored none."""
        parts = [chunk.targets for chunk in self._chunks]
        if any(part is None for part in parts):
            return None
        targets = np.empty(self.num_samples, np.int64)
        for number, part in enumerate(parts):
            places = np.flatnonzero(self._owners == number)
            assert part is not None
            values = part.reshape(len(part), -1)
            if values.shape[1] != 1:
                name = self._chunks[number].name
                raise InvalidDataError(
                    f"{self._folder / name}: {values.shape[1]} labels an image, want one"
                )
            targets[places] = values[self._rows[places], 0]
        return targets

    def _check_complete(self, present: np.ndarray) -> None:
        if present[0] < 0 or present[-1] >= self.num_samples:
            raise InvalidDataError(
                f"{self._folder}: its chunks hold images {present[0]} to {present[-1]}, the data "
                f"set has {self.num_samples}: they are of another data set"
            )
        if len(present) == self.num_samples:
            return
        absent = np.setdiff1d(np.arange(self.num_samples), present)
        raise InvalidDataError(
            f"{self._folder}: {len(absent)} of {self.num_samples} images have no features, the "
            f"first is image {absent[0]}: a chunk is missing, or the sampler dropped the last batch"
        )

    def _check_duplicates(self, indices: np.ndarray, owners: np.ndarray, rows: np.ndarray) -> None:
        """Tell the sampler's padding, fewer rows than ranks, from what another run left behind."""
        num_ranks = len({chunk.rank for chunk in self._chunks})
        if len(indices) >= num_ranks:
            raise InvalidDataError(
                f"{self._folder}: {len(indices)} rows are of images that have one already, and "
                f"padding for {num_ranks} ranks is fewer than {num_ranks}: chunks of several runs "
                "are mixed; remove those of the older run"
            )
        for index, owner, row in zip(indices, owners, rows, strict=True):
            one = self._chunks[self._owners[index]].features[self._rows[index]].astype(np.float64)
            other = self._chunks[owner].features[row].astype(np.float64)
            if np.linalg.norm(one - other) > _SAME_ROW_TOLERANCE * np.linalg.norm(one):
                raise InvalidDataError(
                    f"{self._folder}: image {index} has different features in "
                    f"{self._chunks[self._owners[index]].name} and {self._chunks[owner].name}: "
                    "chunks of several runs are mixed; remove those of the older run"
                )


def list_feature_layers(folder: Path, partition: str) -> list[str]:
    """Return the layers of a partition that a folder has chunks of.

    Raises:
        MissingInputError: it has none.
    """
    prefix = f"{partition.lower()}_"
    layers = sorted(
        {
            match["rest"].removeprefix(prefix)
            for match in map(_NAME.fullmatch, _list_names(folder))
            if match and match["rest"].startswith(prefix)
        }
    )
    if not layers:
        raise MissingInputError(
            f"{folder}: no rank*_{prefix}*_features.npy, which VISSL's extraction writes"
        )
    return layers


def _list_names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        raise MissingInputError(f"{folder}: no such folder") from None


def _open_chunks(folder: Path, partition: str, layer: str) -> list[_Chunk]:
    wanted = f"{partition.lower()}_{layer}"
    matches = [match for match in map(_NAME.fullmatch, _list_names(folder)) if match]
    ours = [match for match in matches if match["rest"] == wanted]
    if not ours:
        others = sorted({match["rest"] for match in matches})
        raise MissingInputError(
            f"{folder}: no rank*_{wanted}_features.npy; "
            + (f"there are features of {', '.join(others)}" if others else "it has no features")
        )
    chunks = [_open_chunk(folder, match) for match in ours]
    _check_same_run(folder, chunks)
    return sorted(chunks, key=lambda chunk: (chunk.rank, chunk.number or 0))


def _open_chunk(folder: Path, match: re.Match[str]) -> _Chunk:
    stem = match.string.removesuffix("_features.npy")
    path = folder / match.string
    features, indices = read_array(path), read_array(folder / f"{stem}_inds.npy")
    targets_path = folder / f"{stem}_targets.npy"
    targets = read_array(targets_path) if targets_path.exists() else None
    if features.dtype.kind != "f" or features.ndim < 2:
        raise InvalidDataError(
            f"{path}: {features.dtype} of shape {features.shape}, want floats of shape (n, D)"
        )
    if indices.dtype.kind not in "iu" or indices.ndim != 1:
        raise InvalidDataError(
            f"{folder / stem}_inds.npy: {indices.dtype} of shape {indices.shape}, want integers of "
            "shape (n,)"
        )
    if targets is not None and (targets.dtype.kind not in "fiu" or targets.ndim == 0):
        raise InvalidDataError(
            f"{targets_path}: {targets.dtype} of shape {targets.shape}, want numbers, one or more "
            "for each of n rows"
        )
    for name, array in (("inds", indices), ("targets", targets)):
        if array is not None and len(array) != len(features):
            raise InvalidDataError(
                f"{path}: {len(features)} rows, but {stem}_{name}.npy has {len(array)}: the two "
                "are of different runs, or the extraction was killed; extract again"
            )
    return _Chunk(
        name=match.string,
        rank=int(match["rank"]),
        number=int(match["chunk"]) if match["chunk"] else None,
        features=features.reshape(len(features), math.prod(features.shape[1:])),
        sample_indices=indices.astype(np.int64),
        targets=targets,
    )


def _check_same_run(folder: Path, chunks: list[_Chunk]) -> None:
    """Raise where shapes, types or numbers cannot come from one extraction."""
    kinds = {(chunk.features.shape[1], str(chunk.features.dtype)): chunk.name for chunk in chunks}
    if len(kinds) > 1:
        said = " and ".join(f"{dim} {dtype} ({name})" for (dim, dtype), name in kinds.items())
        raise InvalidDataError(
            f"{folder}: rows of {said}: chunks of several runs are mixed; remove those of the "
            "older run"
        )
    if 0 < sum(chunk.number is None for chunk in chunks) < len(chunks):
        raise InvalidDataError(
            f"{folder}: some files have chunk<c> in their names, some have not: they are of "
            "several versions of VISSL; remove those of the older run"
        )
    numbers: dict[int, list[int]] = {}
    for chunk in chunks:
        numbers.setdefault(chunk.rank, []).append(chunk.number or 0)
    missing = [f"rank {rank}" for rank in range(max(numbers)) if rank not in numbers]
    missing += [
        f"chunk {number} of rank {rank}"
        for rank, present in sorted(numbers.items())
        for number in range(max(present))
        if number not in present
    ]
    if missing:
        raise InvalidDataError(f"{folder}: {', '.join(missing[:5])} missing; extract again")
