"""Finding the images that a run is about, in an order that every machine agrees on."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from clusterfit.artifacts.files import read_array
from clusterfit.errors import InvalidDataError, MissingInputError

IMAGE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif"})
"""What torchvision decodes, by the file's name."""

_UNFIT_FOR_A_LINE: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""samples.txt has one path a line: a name that cannot stand in it would shift all others."""


def list_images(folder: Path, where: str) -> list[str]:
    """Return the images below a folder relative to it, sorted; `where` names it in errors.

    Raises:
        MissingInputError: when there is no such folder, or no image in it, or it may not be read.
        InvalidDataError: when a name cannot stand in a line, or a link leads back to itself.
    """
    if not folder.is_dir():
        raise MissingInputError(
            f"{where}: {folder} is not a folder; paths under data start at the data root"
        )
    try:
        paths = sorted(_walk(folder))
    except PermissionError as error:
        raise MissingInputError(f"{where}: this user may not read {error.filename}") from error
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise InvalidDataError(
            f"{where}: {_find_loop(Path(error.filename))} is a link to a folder that it lies in; "
            "remove it"
        ) from error
    if not paths:
        raise MissingInputError(
            f"{where}: no image below {folder}; wanted are files named "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    _check_names(paths, where)
    return paths


def read_path_list(location: Path, data_root: Path) -> tuple[str, ...]:
    """Return the paths of a text file, one a line, or of a .npy array of text.

    They are relative to the data root; absolute ones that begin with it are made so.

    Raises:
        MissingInputError: when the file is not there, or lists nothing.
        InvalidDataError: when it is not such a list, or a path leaves the data root.
    """
    listed = _read_array_of_text(location) if location.suffix == ".npy" else _read_lines(location)
    if not listed:
        raise MissingInputError(f"{location}: lists no image")
    _check_names(listed, str(location))
    root = f"{data_root.absolute()}/"
    paths = tuple(path.removeprefix(root) for path in listed)
    for path in paths:
        if path.startswith("/") or ".." in Path(path).parts:
            raise InvalidDataError(f"{location}: {path!r} leaves the data root ({data_root})")
    return paths


def _walk(folder: Path, prefix: str = "") -> Iterator[str]:
    """Yield image paths relative to `folder`; hidden files and folders are left out."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/")
            elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122 - 10x
                yield prefix + entry.name


def _find_loop(path: Path) -> Path:
    """Return the first link on the way to `path` that leads back to where it lies."""
    ways = [*reversed(path.parents), path]
    return next(
        way
        for way in ways
        if way.is_symlink() and way.parent.resolve().is_relative_to(way.resolve())
    )


def _read_array_of_text(location: Path) -> tuple[str, ...]:
    names = read_array(location)
    if names.dtype.kind not in "US" or names.ndim != 1:
        raise InvalidDataError(
            f"{location}: got {names.dtype} {names.shape}, want one axis of text (dtype U or S)"
        )
    try:
        decoded = np.char.decode(names, "utf-8") if names.dtype.kind == "S" else names
    except UnicodeDecodeError as error:
        raise InvalidDataError(f"{location}: not UTF-8 text") from error
    paths = tuple(decoded.tolist())
    if "" in paths:
        raise InvalidDataError(f"{location}: path {paths.index('')} is empty")
    return paths


def _read_lines(location: Path) -> tuple[str, ...]:
    try:
        text = location.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise MissingInputError(f"{location}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidDataError(f"{location}: not UTF-8 text") from error
    return tuple(line.strip() for line in text.split("\n") if line.strip())


def _check_names(paths: tuple[str, ...] | list[str], where: str) -> None:
    for path in paths:
        if _UNFIT_FOR_A_LINE.search(path):
            raise InvalidDataError(
                f"{where}: a file name with control characters, or not UTF-8: {path!r}; rename it"
            )
