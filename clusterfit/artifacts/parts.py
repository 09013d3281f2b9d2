"""Features of a partition: fixed numbers of rows a part, read without loading them all.

N: rows that are there, D: feature_dim, n: rows of one part or chunk.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clusterfit.artifacts.manifest import find_size_faults, read_count, read_manifest
from clusterfit.artifacts.part import INDEX_DTYPE, PartHeader, read_numbers, read_part_header
from clusterfit.errors import InvalidDataError


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
            RetryableError: when the storage failed.
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
        self._parts: list[tuple[Path, PartHeader]] = []
        self._starts: list[int] = []
        indices: list[np.ndarray] = []
        num_rows = 0
        for record in manifest.files:
            if not record.path.startswith("part-"):
                continue
            path = folder / record.path
            header = read_part_header(path)
            if header is None or (header.num_rows and header.feature_dim != self.feature_dim):
                raise InvalidDataError(f"{path}: damaged; delete it, redo extract")
            part_indices = read_numbers(
                path, header.sample_indices_at, (header.num_rows,), INDEX_DTYPE
            )
            self._parts.append((path, header))
            self._starts.append(num_rows)
            indices.append(part_indices)
            num_rows += len(part_indices)
        self.num_rows = num_rows
        self.sample_indices = np.concatenate(indices) if indices else np.empty(0, np.int64)
        limits = np.concatenate([[-1], self.sample_indices, [self.num_samples]])
        if np.any(np.diff(limits) <= 0):
            raise InvalidDataError(
                f"{folder}: parts overlap or are out of order; delete it, redo extract"
            )

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
            path, header = self._parts[number]
            dtype, dim = header.features_dtype, header.feature_dim
            first = header.features_at + (start - offset) * dim * dtype.itemsize
            pieces.append(read_numbers(path, first, (end - start, dim), dtype))
            start = end
        if len(pieces) == 1:  # the usual case, without a copy where the part is float32
            return pieces[0].astype(np.float32, copy=False)
        nothing = np.empty((0, self.feature_dim), np.float32)
        return np.concatenate([nothing, *pieces], dtype=np.float32)

    def chunks(self, start: int, stop: int, chunk_rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, (n, D) float32) over rows start..stop-1, in order."""
        for first in range(start, stop, chunk_rows):
            yield first, self.read_rows(first, min(first + chunk_rows, stop))
