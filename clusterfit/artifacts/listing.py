"""Finding the images that a run is about, in an order that every machine agrees on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from clusterfit.artifacts.files import read_array
from clusterfit.artifacts.outage import check_storage, is_outage
from clusterfit.errors import InvalidDataError, MissingInputError, RetryableError

IMAGE_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}
)
"""Names of files that are images: those of torchvision's ImageFolder, and GIF."""

_UNFIT_FOR_A_LINE: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""samples.txt has one path a line: a name that cannot stand in it would shift all others."""


def list_images(folder: Path, where: str) -> list[str]:
    """Return the images below a folder relative to it, sorted; `where` names it in errors.

    Raises:
        MissingInputError: when there is no such folder, no image in it, or it cannot be listed.
        InvalidDataError: when it is a file, when a name cannot stand in a line, or a link leads
            back to where it is.
        RetryableError: when the storage failed.
    """
    if folder.is_file():
        raise InvalidDataError(
            f"{where}: {folder} is a file, want a folder of images; a list of their paths is read "
            "with data.format: filelist"
        )
    if not folder.is_dir():
        raise MissingInputError(
            f"{where}: {folder} is not there; paths under data start at the data root"
        )
    paths = sorted(_walk(folder, where))
    if not paths:
        raise MissingInputError(
            f"{where}: no image below {folder}; wanted are files named "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    _check_names(paths, where)
    return paths


def read_path_list(location: Path, data_root: Path, where: str) -> tuple[str, ...]:
    """Return the paths of a text file, one a line, or of a .npy array of text.

    They are relative to the data root; absolute ones that begin with it, by whatever name links
    give it, are made so. `where` names the list in errors.

    Raises:
        MissingInputError: when the file is not there, or lists nothing.
        InvalidDataError: when it is a folder or not such a list, or a path leaves the data root.
        RetryableError: when the storage failed.
    """
    if location.is_dir():
        raise InvalidDataError(
            f"{where}: {location} is a folder, want a text file with one path a line, or a .npy "
            "array of paths; a folder of images is read with data.format: folder"
        )
    if not location.exists():
        raise MissingInputError(
            f"{where}: {location} is not there; paths under data start at the data root"
        )
    listed = _read_array_of_text(location) if location.suffix == ".npy" else _read_lines(location)
    if not listed:
        raise MissingInputError(f"{location}: lists no image")
    _check_names(listed, str(location))
    root = f"{data_root.absolute()}/"
    paths = []
    for path in listed:
        if path.startswith("/") and not path.startswith(root):
            root = _find_root(path, data_root) or root
        relative = path.removeprefix(root)
        if relative.startswith("/") or ".." in Path(relative).parts:
            raise InvalidDataError(f"{location}: {relative!r} leaves the data root ({data_root})")
        paths.append(relative)
    return tuple(paths)


def _find_root(path: str, data_root: Path) -> str:
    """Return what an absolute path calls the data root, with its slash; empty: it is not in it.

    Raises:
        RetryableError: when the storage failed.
    """
    for folder in reversed(Path(path).parents):
        try:
            if folder.samefile(data_root):
                return f"{str(folder).rstrip('/')}/"
        except OSError as error:
            check_storage(folder, error)
            break  # Nothing is below it either.
    return ""


def _walk(folder: Path, where: str) -> Iterator[str]:
    """Yield image paths relative to `folder`; hidden files and folders are left out.

    Links are followed, but not back to a folder that they are in.
    """

    def walk(path: str, prefix: str, inside: tuple[tuple[int, int], ...]) -> Iterator[str]:
        stat = os.stat(path)  # noqa: PTH116 - a Path for each of a million entries costs minutes
        identity = (stat.st_dev, stat.st_ino)
        if identity in inside:
            raise InvalidDataError(
                f"{where}: {path} is a link back to a folder that it is in; remove the link"
            )
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    yield from walk(entry.path, f"{prefix}{entry.name}/", (*inside, identity))
                elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122
                    yield prefix + entry.name

    try:
        yield from walk(str(folder), "", ())
    except OSError as error:
        fault = f"{where}: cannot list {error.filename or folder}: {error.strerror}"
        if is_outage(error):
            raise RetryableError(fault) from error
        raise MissingInputError(f"{fault}; mend it, or move it out of {folder}") from error


def _read_array_of_text(location: Path) -> tuple[str, ...]:
    names = read_array(location)
    if names.dtype.kind not in "US" or names.ndim != 1:
        raise InvalidDataError(
            f"{location}: got {names.dtype} {names.shape}, want one axis of text (dtype U or S)"
        )
    try:
        decoded = np.char.decode(names, "utf-8") if names.dtype.kind == "S" else names
        paths = tuple(decoded.tolist())
    except UnicodeDecodeError as error:
        raise InvalidDataError(f"{location}: not UTF-8 text") from error
    except (SystemError, ValueError) as error:  # how NumPy tells a number beyond Unicode
        raise InvalidDataError(f"{location}: not Unicode text ({error})") from error
    if "" in paths:
        raise InvalidDataError(f"{location}: path {paths.index('')} is empty")
    return paths


def _read_lines(location: Path) -> tuple[str, ...]:
    try:
        text = location.read_text(encoding="utf-8-sig")
    except OSError as error:
        check_storage(location, error)
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
