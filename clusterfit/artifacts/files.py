"""Files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.lib.format import open_memmap

from clusterfit.artifacts.outage import check_storage
from clusterfit.errors import InvalidDataError, MissingInputError, WriteError

PARTIAL_SUFFIX: Final = ".partial"
"""Of files on their way: hidden, and removed by the next writer of the run directory."""

_HASH_CHUNK_BYTES = 1 << 22

Guard = Callable[[], None]
"""Called immediately before a rename; raises where the writer has lost the run directory."""


def write_file(path: Path, content: bytes, guard: Guard | None = None) -> None:
    """Write beside the target, fsync, ask the guard, rename, fsync the folder.

    Raises:
        WriteError: when the folder cannot be written (disk full, permission, read-only). What
            stood at `path` before is untouched, and no partial file is left.
        RetryableError: when the storage failed.
    """
    _write_chunks(path, [content], len(content), guard)


def _write_chunks(path: Path, chunks: Iterable[bytes], num_bytes: int, guard: Guard | None) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{PARTIAL_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            if guard is not None:
                guard()
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        check_storage(path, error)
        raise WriteError(
            f"{path}: cannot write {num_bytes} bytes: {error.strerror or error}; "
            "make space or mend the permissions, then run the same command again"
        ) from error


def write_json(path: Path, value: Any, guard: Guard | None = None) -> None:
    """Write a value as indented JSON with a line end, whole or not at all."""
    write_file(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode(), guard)


def write_array(path: Path, array: np.ndarray, guard: Guard | None = None) -> None:
    """Write an array as .npy, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_file(path, buffer.getvalue(), guard)


def concatenate_arrays(path: Path, sources: list[Path], guard: Guard | None = None) -> None:
    """Write the .npy arrays of `sources` one after another as one, without holding any of them."""
    arrays = [read_array(source) for source in sources]
    shape = (sum(len(array) for array in arrays), *arrays[0].shape[1:])
    header = io.BytesIO()
    description = {
        "descr": np.lib.format.dtype_to_descr(arrays[0].dtype),
        "fortran_order": False,
        "shape": shape,
    }
    np.lib.format.write_array_header_1_0(header, description)
    rows = max(1, _HASH_CHUNK_BYTES // max(1, arrays[0][:1].nbytes))

    def chunks() -> Iterator[bytes]:
        yield header.getvalue()
        for array in arrays:
            for start in range(0, len(array), rows):
                yield array[start : start + rows].tobytes()

    num_bytes = len(header.getvalue()) + sum(array.nbytes for array in arrays)
    _write_chunks(path, chunks(), num_bytes, guard)


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object of the run directory.

    Raises:
        MissingInputError: when it is not there.
        InvalidDataError: when it cannot be read, or is not a JSON object.
        RetryableError: when the storage failed.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingInputError(f"{path}: not there") from None
    except IsADirectoryError:
        raise InvalidDataError(f"{path}: a folder, want a JSON file") from None
    except OSError as error:
        check_storage(path, error)
        raise InvalidDataError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidDataError(f"{path}: not valid JSON ({error}); delete it") from error
    if not isinstance(value, dict):
        raise InvalidDataError(f"{path}: got {type(value).__name__}, want a JSON object; delete it")
    return value


def read_array(path: Path) -> np.ndarray:
    """Return a .npy array, memory-mapped; arrays of Python objects are refused.

    Raises:
        MissingInputError: when it is not there.
        InvalidDataError: when it is not a plain .npy array, or shorter than it says.
        RetryableError: when the storage failed.
    """
    try:
        return open_memmap(path, mode="r")
    except FileNotFoundError:
        raise MissingInputError(f"{path}: not there") from None
    except IsADirectoryError:
        raise InvalidDataError(f"{path}: a folder, want a .npy file") from None
    except Exception as error:  # a damaged header ends in anything, up to a TokenError
        if isinstance(error, OSError):
            check_storage(path, error)
        raise InvalidDataError(f"{path}: not a plain .npy array ({error})") from error


def compute_sha256(path: Path) -> str:
    """Return the hexadecimal sha256 of a file's content, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def remove_partial_files(folder: Path) -> None:
    """Remove what killed writers left beside their targets, below `folder`."""
    for leftover in folder.rglob(f".*{PARTIAL_SUFFIX}"):
        leftover.unlink(missing_ok=True)


def remove_files(paths: Iterable[Path]) -> None:
    """Remove files that may or may not be there."""
    for path in paths:
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def find_visible_files(folder: Path) -> list[Path]:
    """Return the files below a folder, sorted, without partial ones; none where it is not there."""
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")
    )
