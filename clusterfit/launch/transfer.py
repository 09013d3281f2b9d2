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

_PARTIAL: Final = ".clusterfit-partial"
_PULSE_SECONDS: Final = 10.0


def list_files(
    root: Path, tell: Callable[[], None] = lambda: None, *, follow_links: bool = False
) -> Listing:
    """Return the files below a folder, or the one file that is meant, under its name.

    Args:
        root: The folder, or the file.
        tell: Is called at each step: a shared file system may take minutes for a million files.
        follow_links: Go through links to folders. Then a folder that cannot be read is an error,
            because nothing may be left out; else it is nobody's business here.

    Raises:
        PermissionError: With `follow_links` only.
    """
    if root.is_file():
        return {root.name: _describe(root)}
    found = {}
    for path in _walk(root, tell, (), follow_links=follow_links):
        if path.is_file() and not path.name.endswith(_PARTIAL):
            found[path.relative_to(root).as_posix()] = _describe(path)
    return dict(sorted(found.items()))


def _walk(
    folder: Path,
    tell: Callable[[], None],
    above: tuple[tuple[int, int], ...],
    *,
    follow_links: bool,
) -> Iterator[Path]:
    """Yield what is below a folder, but not through a link to one that it lies in."""
    status = folder.stat()
    own = (status.st_dev, status.st_ino)
    if own in above:
        return
    try:
        paths = list(folder.iterdir())
    except PermissionError:
        if follow_links:
            raise
        return
    for path in paths:
        tell()
        if not path.is_dir():
            yield path
        elif follow_links or not path.is_symlink():
            yield from _walk(path, tell, (*above, own), follow_links=follow_links)


def send_files(
    root: Path, names: Iterable[str], target: IO[bytes], tell: Callable[[int], None]
) -> None:
    """Write files, links as what they lead to, as a tar stream; tell how many bytes have gone."""
    folder = root.parent if root.is_file() else root
    with tarfile.open(fileobj=target, mode="w|", bufsize=1 << 20, dereference=True) as archive:
        for name in names:
            archive.add(folder / name, name, recursive=False, filter=_anonymise)
            tell((folder / name).stat().st_size)


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
    """Serve one command of the other side; faults are one line and exit status 1."""
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
            send_files(folder, names, sys.stdout.buffer, _ignore)
        else:
            received = receive_files(folder, sys.stdin.buffer, _ignore, options.rename)
            sys.stdout.write(f"{received}\n")
    except (OSError, ValueError, tarfile.TarError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
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
    with partial.open("wb") as file:
        while chunk := content.read(1 << 20):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    os.utime(partial, (entry.mtime, entry.mtime))
    partial.replace(path)


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
