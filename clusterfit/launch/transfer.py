"""Files through a pod's standard streams: what `put` and `get` run on the other side.

`python -m clusterfit.launch.transfer list|receive|send FOLDER` stands in the pod; the same
functions serve this side. A file is written beside its place and renamed, so that one that was cut
off is never taken for a whole one, and what is there already, by size and time, is not sent again.
Standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

Listing = dict[str, list[int]]
"""Files by their path below the folder, each with its size in bytes and its time in seconds."""

CANNOT_WRITE: Final = 73
"""Exit status of a command that cannot write, as of all that clusterfit does; others end with 1."""

_PARTIAL: Final = ".clusterfit-partial"
_WORKERS_PARTIAL: Final = ".partial"
"""Ends the hidden name of a file that a stage is writing."""
_PULSE_SECONDS: Final = 10.0


def list_files(
    root: Path, tell: Callable[[], None] = lambda: None, *, everything: bool = False
) -> Listing:
    """Return the files below a folder, or the one file that is meant, under its name.

    Args:
        root: The folder, or the file.
        tell: Is called at each step: a shared file system may take minutes for a million files.
        everything: Nothing may be left out: links to folders are gone through, and what cannot be
            read is an error. Else such a folder is nobody's business here, and neither is what a
            stage at work removes meanwhile or has not written whole.

    Raises:
        OSError: With `everything` only.
    """
    if root.is_file():
        return {root.name: _describe(root)}
    found = {}
    for path in _walk(root, tell, (), everything=everything):
        if not path.is_file() or path.name.endswith(_PARTIAL):
            continue
        if not everything and path.name.startswith(".") and path.name.endswith(_WORKERS_PARTIAL):
            continue
        try:
            found[path.relative_to(root).as_posix()] = _describe(path)
        except FileNotFoundError:
            if everything:
                raise
    return dict(sorted(found.items()))


def _walk(
    folder: Path,
    tell: Callable[[], None],
    above: tuple[tuple[int, int], ...],
    *,
    everything: bool,
) -> Iterator[Path]:
    """Yield what is below a folder, but not through a link to one that it lies in."""
    try:
        status = folder.stat()
        paths = list(folder.iterdir())
    except (PermissionError, FileNotFoundError):
        if everything:
            raise
        return
    own = (status.st_dev, status.st_ino)
    if own in above:
        return
    for path in paths:
        tell()
        if not path.is_dir():
            yield path
        elif everything or not path.is_symlink():
            yield from _walk(path, tell, (*above, own), everything=everything)


def send_files(
    root: Path,
    names: Iterable[str],
    target: IO[bytes],
    tell: Callable[[int], None],
    *,
    everything: bool = True,
) -> None:
    """Write files, links as what they lead to, as a tar stream.

    Args:
        root: The folder, or the file.
        names: Which, below the folder.
        target: The stream.
        tell: Is told how many bytes have gone.
        everything: Whether one that is gone is an error, and not just left out.
    """
    folder = root.parent if root.is_file() else root
    with tarfile.open(fileobj=target, mode="w|", bufsize=1 << 20, dereference=True) as archive:
        for name in names:
            try:
                file = (folder / name).open("rb")
            except FileNotFoundError:
                if everything:
                    raise
                continue
            with file:
                entry = _anonymise(archive.gettarinfo(arcname=name, fileobj=file))
                archive.addfile(entry, file)
            tell(entry.size)


def receive_files(
    folder: Path, source: IO[bytes], tell: Callable[[int], None], rename: str = ""
) -> int:
    """Read a tar stream into a folder and return the number of files.

    Args:
        folder: Where the files go.
        source: The stream.
        tell: Is told of the bytes that have come.
        rename: What the only file is to be called.

    Raises:
        ValueError: An entry leads out of the folder, or is no file.
    """
    received = 0
    with tarfile.open(fileobj=source, mode="r|") as archive:
        for entry in archive:
            place = PurePosixPath(entry.name)
            if not entry.isfile() or place.is_absolute() or ".." in place.parts:
                raise ValueError(f"{entry.name}: not a file below the folder")
            content = archive.extractfile(entry)
            assert content is not None, "a regular file has content"
            _write_whole(folder / (rename or entry.name), content, entry)
            tell(entry.size)
            received += 1
    return received


def main(arguments: list[str] | None = None) -> int:
    """Serve one command of the other side; faults are one line and an exit status."""
    parser = argparse.ArgumentParser(prog="python -m clusterfit.launch.transfer")
    parser.add_argument("command", choices=["list", "receive", "send"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rename", default="")
    options = parser.parse_args(arguments)
    folder: Path = options.folder
    try:
        if options.command == "list":
            found = list_files(folder, _Pulse()) if folder.exists() else None
            sys.stdout.write(json.dumps(found) + "\n")
        elif options.command == "send":
            names: Any = json.loads(sys.stdin.buffer.readline())
            send_files(folder, names, sys.stdout.buffer, _ignore, everything=False)
        else:
            received = receive_files(folder, sys.stdin.buffer, _ignore, options.rename)
            sys.stdout.write(f"{received}\n")
    except (OSError, ValueError, tarfile.TarError) as error:
        sys.stderr.write(f"{error}\n")
        cannot_write = options.command == "receive" and isinstance(error, OSError)
        return CANNOT_WRITE if cannot_write else 1
    return 0


class _Pulse:
    """Shows whoever waits for the list, and would give up, that it is being made."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._last >= _PULSE_SECONDS:
            sys.stdout.write("\n")  # JSON may begin with blanks
            sys.stdout.flush()
            self._last = time.monotonic()


def _write_whole(path: Path, content: IO[bytes], entry: tarfile.TarInfo) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{_PARTIAL}")
    try:
        with partial.open("wb") as file:
            while chunk := content.read(1 << 20):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.utime(partial, (entry.mtime, entry.mtime))
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)  # hidden, and as large as what the file system had left
        raise


def _describe(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, int(status.st_mtime)]


def _anonymise(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = int(entry.mtime)
    return entry


def _ignore(_size: int) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
