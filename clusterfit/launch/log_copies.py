"""Print the copies of a stage's log that its ranks keep in the run directory.

This runs in a pod that mounts the storage claim (`python -m clusterfit.launch.log_copies`), because
the claim outlives the workers' pods and is reached from nowhere else. Lines of several ranks come
in the order of their time stamps.

They leave the pod through its own log, of which the kubelet shows the newest 10 MiB: compressed, so
that four times as much fits, and with a checksum, so that a part is never taken for the whole.
Standard library only: it starts in a tenth of a second.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import heapq
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

EXIT_NONE = 66
"""There is no copy of what was asked for."""

_GZIP: Final = 16 + zlib.MAX_WBITS
_PACKED_BYTES: Final = 6144
"""In one line of a pod's log; containerd splits those of more than 16 KiB."""

_ATTEMPT = re.compile(r"attempt-(\d+)")
_RANK = re.compile(r"rank-(\d+)\.log")


def find_attempts(folder: Path) -> list[Path]:
    """Return the folders of all attempts, oldest first."""
    attempts = sorted(
        (int(match[1]), path)
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := _ATTEMPT.fullmatch(path.name))
    )
    return [path for _, path in attempts]


def find_attempt(folder: Path, back: int) -> Path | None:
    """Return the folder of the newest attempt, or of the `back`-th before it."""
    attempts = find_attempts(folder)
    return attempts[-1 - back] if back < len(attempts) else None


def find_files(attempt: Path, ranks: Iterable[int] = ()) -> list[Path]:
    """Return the files of some ranks, of all where none is named, in the order of ranks."""
    wanted = set(ranks)
    found = sorted(
        (int(match[1]), path)
        for path in attempt.iterdir()
        if (match := _RANK.fullmatch(path.name)) and (not wanted or int(match[1]) in wanted)
    )
    return [path for _, path in found]


def merge_lines(files: Iterable[Path], since: str = "") -> Iterator[str]:
    """Yield the lines of all files by their time stamps; a line without one stays in its place.

    Args:
        files: Of different ranks, or of one rank's different attempts.
        since: Leave out lines with an earlier time stamp.
    """
    streams = [_read_stamped(path) for path in files]
    for stamp, _, line in heapq.merge(*streams, key=lambda item: item[:2]):
        if stamp >= since:
            yield line


def pack_lines(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines, each with its end, as lines of base64 of a gzip stream."""
    packer = zlib.compressobj(wbits=_GZIP)
    packed = bytearray()
    for line in lines:
        packed += packer.compress(line.encode())
        while len(packed) >= _PACKED_BYTES:
            yield base64.b64encode(packed[:_PACKED_BYTES]).decode() + "\n"
            del packed[:_PACKED_BYTES]
    packed += packer.flush()
    for first in range(0, len(packed), _PACKED_BYTES):
        yield base64.b64encode(packed[first : first + _PACKED_BYTES]).decode() + "\n"


def unpack_lines(packed: Iterable[str]) -> list[str]:
    """Return, without their ends, the lines that were packed.

    Raises:
        ValueError: Some of it is missing, or it is something else.
    """
    unpacker = zlib.decompressobj(wbits=_GZIP)
    try:
        text = b"".join(unpacker.decompress(base64.b64decode(line)) for line in packed)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"no packed lines: {error}") from None
    if not unpacker.eof:
        raise ValueError("the packed lines have no end")
    return text.decode().removesuffix("\n").split("\n") if text else []


def main(arguments: list[str] | None = None) -> int:
    """Print what was asked for, packed, or say that it is not there."""
    parser = argparse.ArgumentParser(prog="python -m clusterfit.launch.log_copies")
    parser.add_argument("folder", type=Path, help="<storage>/<run>/logs/<stage>")
    parser.add_argument("--back", type=int, default=0, help="attempts before the newest one")
    parser.add_argument("--rank", type=int, action="append", default=[])
    parser.add_argument("--seconds", type=int, default=0, help="only lines of the newest seconds")
    parser.add_argument("--since", default="", help="of all attempts, lines from this time on")
    options = parser.parse_args(arguments)
    attempt = find_attempt(options.folder, options.back)
    attempts = find_attempts(options.folder) if options.since else [attempt] if attempt else []
    files = [path for folder in attempts for path in find_files(folder, options.rank)]
    if not files:
        sys.stderr.write(f"no copies in {options.folder}\n")
        return EXIT_NONE
    since = options.since or (_find_moment(options.seconds) if options.seconds else "")
    sys.stdout.writelines(pack_lines(merge_lines(files, since)))
    return 0


def _find_moment(seconds: int) -> str:
    """Return the time of so many seconds ago as lines have it, by the clock of this node."""
    moment = datetime.now(UTC) - timedelta(seconds=seconds)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _read_stamped(path: Path) -> Iterator[tuple[str, str, str]]:
    stamp = ""
    with path.open(errors="replace") as lines:
        for line in lines:
            if line.startswith("ts="):
                stamp = line[3:].partition(" ")[0]
            # A file that is being written may end within a line.
            yield stamp, path.name, line if line.endswith("\n") else f"{line}\n"


if __name__ == "__main__":
    sys.exit(main())
