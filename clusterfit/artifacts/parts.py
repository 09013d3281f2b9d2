"""Feature parts: fixed numbers of rows, one safetensors file each, read without loading them all.

N: rows that are there, D: feature_dim, n: rows of one part or chunk.
"""

from __future__ import annotations

import bisect
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from clusterfit.artifacts.files import Guard, write_file
from clusterfit.artifacts.manifest import find_size_faults, read_count, read_manifest
from clusterfit.errors import InvalidDataError

_METADATA_KEY: Final = "clusterfit"


def part_name(number: int) -> str:
    """Return the file name of a part, counted from 0."""
    return f"part-{number:05d}.safetensors"


@dataclass(frozen=True, slots=True)
class PartHeader:
    """What a part says of itself without its rows being read."""

    num_rows: int
    feature_dim: int
    fingerprint: str
    excluded: dict[int, str]
    """Sample index -> why the image could not be read."""


def write_part(
    path: Path,
    features: np.ndarray,  # (n, D) float16 or float32
    sample_indices: np.ndarray,  # (n,) int64
    fingerprint: str,
    excluded: Mapping[int, str],
    guard: Guard | None = None,
) -> None:
    """Write one part, whole or not at all."""
    # One entry: safetensors writes several in an order of chance, and equal parts must be equal.
    said = {"fingerprint": fingerprint, "excluded": dict(excluded)}
    metadata = {_METADATA_KEY: json.dumps(said, sort_keys=True)}
    tensors = {
        "features": np.ascontiguousarray(features),
        "sample_indices": np.ascontiguousarray(sample_indices, dtype=np.int64),
    }
    write_file(path, save(tensors, metadata=metadata), guard)


def read_part_header(path: Path) -> PartHeader | None:
    """Return a part's header, or None where the file is missing, torn or not a part."""
    try:
        with path.open("rb") as file:
            (header_bytes,) = struct.unpack("<Q", file.read(8))
            size = path.stat().st_size
            if header_bytes > size:
                return None
            header = json.loads(file.read(header_bytes))
        features, sample_indices = header["features"], header["sample_indices"]
        end = max(features["data_offsets"][1], sample_indices["data_offsets"][1])
        num_rows, feature_dim = features["shape"]
        if 8 + header_bytes + end != size or sample_indices["shape"] != [num_rows]:
            return None
        if features["dtype"] not in {"F16", "F32"} or sample_indices["dtype"] != "I64":
            return None
        said = json.loads(header["__metadata__"][_METADATA_KEY])
        excluded = {int(index): why for index, why in said["excluded"].items()}
        return PartHeader(num_rows, feature_dim, said["fingerprint"], excluded)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, struct.error):
        return None


class FeatureTable:
    """The rows of one partition's features, in the data set's order, read on demand.

    Attributes:
        num_samples: images of the partition, readable or not.
        num_rows: N, rows that are there.
        feature_dim: D.
        sample_indices: (N,) int64, strictly rising.
        fingerprint: of the manifest.
        data_fingerprint: of the images that the features are of.
    """

    def __init__(self, folder: Path) -> None:
        """Open a finished partition.

        Raises:
            MissingInputError: when extract has not finished there.
            InvalidDataError: when a part is missing, damaged, or not what the manifest says.
        """
        manifest = read_manifest(folder)
        if faults := list(find_size_faults(folder, manifest)):
            raise InvalidDataError(*(f"{fault}; run extract again" for fault in faults))
        self.fingerprint = manifest.fingerprint
        [self.data_fingerprint] = (
            value for key, value in manifest.inputs.items() if key.startswith("data.")
        )
        self.num_samples = read_count(folder, manifest, "num_samples")
        self.feature_dim = read_count(folder, manifest, "feature_dim")
        self._paths = [folder / r.path for r in manifest.files if r.path.startswith("part-")]
        self._starts: list[int] = []
        indices: list[np.ndarray] = []
        num_rows = 0
        for path in self._paths:
            header = read_part_header(path)
            if header is None or (header.num_rows and header.feature_dim != self.feature_dim):
                raise InvalidDataError(f"{path}: damaged; delete it, redo extract")
            part_indices = self._read(path, "sample_indices")
            self._starts.append(num_rows)
            indices.append(part_indices)
            num_rows += len(part_indices)
        self.num_rows = num_rows
        self.sample_indices = np.concatenate(indices) if indices else np.empty(0, np.int64)
        limits = np.concatenate([[-1], self.sample_indices, [self.num_samples]])
        if np.any(np.diff(limits) <= 0):
            raise InvalidDataError(f"{folder}: parts overlap or are out of order; redo extract")

    def read_rows(self, start: int, stop: int) -> np.ndarray:
        """Return rows start..stop-1 as (n, D) float32."""
        if start < 0 or stop > self.num_rows:
            raise IndexError(f"rows {start}..{stop}: want 0..{self.num_rows}")
        pieces = []
        while start < stop:
            number = bisect.bisect_right(self._starts, start) - 1
            is_last = number + 1 == len(self._starts)
            end = min(stop, self.num_rows if is_last else self._starts[number + 1])
            offset = self._starts[number]
            mine = slice(start - offset, end - offset)
            pieces.append(self._read(self._paths[number], "features", mine))
            start = end
        if len(pieces) == 1:  # the usual case, without a copy where the part is float32
            return pieces[0].astype(np.float32, copy=False)
        nothing = np.empty((0, self.feature_dim), np.float32)
        return np.concatenate([nothing, *pieces], dtype=np.float32)

    def chunks(self, start: int, stop: int, chunk_rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, (n, D) float32) over rows start..stop-1, in order."""
        for first in range(start, stop, chunk_rows):
            yield first, self.read_rows(first, min(first + chunk_rows, stop))

    @staticmethod
    def _read(path: Path, key: str, rows: slice | None = None) -> np.ndarray:
        """Return some rows of a tensor, or all; safetensors cannot slice one that has none."""
        try:
            with safe_open(path, framework="numpy") as part:
                array: Any = part.get_tensor(key) if rows is None else part.get_slice(key)[rows]
                return np.asarray(array)
        except (SafetensorError, OSError) as error:
            raise InvalidDataError(f"{path}: damaged ({error}); delete it, redo extract") from error
