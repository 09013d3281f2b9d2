"""One feature part: a safetensors file of some rows, which says what it is and whether it is whole.

N: rows that are there, D: feature_dim, n: rows of one part.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import save

from clusterfit.artifacts.files import Guard, write_file
from clusterfit.artifacts.manifest import FileRecord
from clusterfit.artifacts.outage import check_storage
from clusterfit.errors import InvalidDataError

_METADATA_KEY: Final = "clusterfit"
_FEATURE_DTYPES: Final[dict[str, np.dtype]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}
INDEX_DTYPE: Final = np.dtype("<i8")


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
    crc32: int | None
    """Of the numbers: features, then sample indices. None where the writer did not say it."""
    features_at: int
    """Byte at which the (num_rows, feature_dim) features begin."""
    features_dtype: np.dtype
    sample_indices_at: int
    """Byte at which the (num_rows,) int64 sample indices begin."""


def write_part(
    path: Path,
    features: np.ndarray,  # (n, D) float16 or float32
    sample_indices: np.ndarray,  # (n,) int64
    fingerprint: str,
    excluded: Mapping[int, str],
    guard: Guard | None = None,
) -> FileRecord:
    """Write one part, whole or not at all, and return what a manifest says of it."""
    features = np.ascontiguousarray(features)
    sample_indices = np.ascontiguousarray(sample_indices, dtype=np.int64)
    # One entry: safetensors writes several in an order of chance, and equal parts must be equal.
    said = {
        "fingerprint": fingerprint,
        "excluded": dict(excluded),
        "crc32": zlib.crc32(_view(sample_indices), zlib.crc32(_view(features))),
    }
    metadata = {_METADATA_KEY: json.dumps(said, sort_keys=True)}
    tensors = {"features": features, "sample_indices": sample_indices}
    content = save(tensors, metadata=metadata)
    write_file(path, content, guard)
    return _record(path, content)


def read_part_header(path: Path) -> PartHeader | None:
    """Return a part's header, or None where the file is missing, torn or not a part.

    Raises:
        RetryableError: when the storage failed.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            length = file.read(8)
            content = length + file.read(min(size, int.from_bytes(length, "little")))
    except OSError as error:
        check_storage(path, error)
        return None
    return _parse_header(content, size)


def check_part(path: Path) -> FileRecord | None:
    """Return what a manifest says of a part that somebody has written; reads all of it.

    None where it is not a part, or its numbers are not those that were written.

    Raises:
        RetryableError: when the storage failed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        check_storage(path, error)
        return None
    header = _parse_header(content, len(content))
    if header is None:
        return None
    features, sample_indices = (
        memoryview(content)[start : start + dtype.itemsize * num_numbers]
        for start, dtype, num_numbers in (
            (header.features_at, header.features_dtype, header.num_rows * header.feature_dim),
            (header.sample_indices_at, INDEX_DTYPE, header.num_rows),
        )
    )
    is_as_written = header.crc32 in (None, zlib.crc32(sample_indices, zlib.crc32(features)))
    return _record(path, content) if is_as_written else None


def read_numbers(path: Path, start: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return the numbers of a part that begin at some byte.

    Read, not mapped: where storage fails, a mapped file kills the process without a word.
    """
    numbers = np.empty(shape, dtype)
    try:
        with path.open("rb") as file:
            file.seek(start)
            num_bytes = file.readinto(_view(numbers))
    except OSError as error:
        check_storage(path, error)
        raise InvalidDataError(f"{path}: {error.strerror}; redo extract") from error
    if num_bytes != numbers.nbytes:
        raise InvalidDataError(f"{path}: cut off; delete it, redo extract")
    return numbers


def _parse_header(content: bytes, size: int) -> PartHeader | None:
    """Return what the header of a part of so many bytes says, None where it is not a part's."""
    try:
        (header_bytes,) = struct.unpack_from("<Q", content)
        header = json.loads(content[8 : 8 + header_bytes])
        features, sample_indices = header["features"], header["sample_indices"]
        num_rows, feature_dim = features["shape"]
        dtype = _FEATURE_DTYPES[features["dtype"]]
        if sample_indices["dtype"] != "I64" or sample_indices["shape"] != [num_rows]:
            return None
        spans = [tuple(tensor["data_offsets"]) for tensor in (features, sample_indices)]
        (features_at, features_end), (indices_at, indices_end) = spans
        if any(
            type(number) is not int or number < 0
            for number in (num_rows, feature_dim, *spans[0], *spans[1])
        ):
            return None
        # The two lie one after the other, whichever is first, and fill the file.
        (first, middle), (second, end) = sorted(spans)
        data_at = 8 + header_bytes
        if (first, middle, data_at + end) != (0, second, size):
            return None
        if features_end - features_at != num_rows * feature_dim * dtype.itemsize:
            return None
        if indices_end - indices_at != num_rows * INDEX_DTYPE.itemsize:
            return None
        said = json.loads(header["__metadata__"][_METADATA_KEY])
        return PartHeader(
            num_rows,
            feature_dim,
            said["fingerprint"],
            {int(index): why for index, why in said["excluded"].items()},
            said.get("crc32"),
            data_at + features_at,
            dtype,
            data_at + indices_at,
        )
    except (ValueError, LookupError, TypeError, AttributeError, struct.error):
        return None


def _record(path: Path, content: bytes) -> FileRecord:
    return FileRecord(path.name, len(content), hashlib.sha256(content).hexdigest())


def _view(array: np.ndarray) -> memoryview:
    """Return the bytes of a contiguous array, of whatever shape."""
    return array.ravel().view(np.uint8).data
