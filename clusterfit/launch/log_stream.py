"""The log of one pod, line by line, without loss or repetition across broken connections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from clusterfit.launch.api import Api, LogBrokenError


@dataclass(slots=True)
class Cursor:
    """How far a pod's log has been read.

    The server can only be asked for lines since a whole second, so what that second already gave is
    counted and passed over.
    """

    uid: str = ""
    """Of the pod: one of the same name that came after it has a log of its own."""
    stamp: str = ""
    """The newest line's time."""
    count: int = 0
    """Lines that were read with that very time."""
    _passed: int = 0

    def attach(self) -> dict[str, str]:
        """Return what to ask the server for, to go on after the last line that was read."""
        self._passed = 0
        return {"sinceTime": f"{self.stamp[:19]}Z"} if self.stamp else {}

    def is_new(self, stamp: str) -> bool:
        """Say whether a line was not read before, and count it in."""
        if stamp < self.stamp:
            return False
        if stamp == self.stamp:
            self._passed += 1
            if self._passed <= self.count:
                return False
            self.count += 1
            return True
        self.stamp, self.count, self._passed = stamp, 1, 1
        return True


def read_lines(
    api: Api,
    pod: str,
    cursor: Cursor,
    *,
    follow: bool,
    tail: int = 0,
    since_seconds: int = 0,
) -> Iterator[str]:
    """Yield the lines that the cursor has not seen, without their line ends.

    A connection that breaks within a line ends them quietly before that line; the whole of it comes
    with the next call.

    Args:
        api: The namespace.
        pod: Its name.
        cursor: Is moved on.
        follow: Stay until the log ends.
        tail: Only this many newest lines; 0: all. Only for a cursor that has seen nothing.
        since_seconds: Only lines of this many newest seconds; 0: all. Likewise.
    """
    query = {"timestamps": "true", "follow": str(follow).lower()}
    if cursor.stamp:
        query |= cursor.attach()
    else:
        query |= {"tailLines": str(tail)} if tail else {}
        query |= {"sinceSeconds": str(since_seconds)} if since_seconds else {}
    for line in _split_lines(api, pod, query):
        stamp, _, text = line.decode(errors="replace").partition(" ")
        if cursor.is_new(_normalise(stamp)):
            yield text


def _split_lines(api: Api, pod: str, query: dict[str, str]) -> Iterator[bytes]:
    rest = b""
    try:
        for piece in api.stream_log(pod, query):
            *lines, rest = (rest + piece).split(b"\n")
            yield from lines
    except LogBrokenError:
        return
    if rest:
        yield rest  # the process died within a line


def _normalise(stamp: str) -> str:
    """Return a time stamp in a form that sorts as text, whatever its number of decimals."""
    seconds, _, fraction = stamp.rstrip("Z").partition(".")
    return f"{seconds}.{fraction:0<9}"
