"""The log of one pod, line by line, without loss or repetition across broken connections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from clusterfit.launch.api import Api, LogBrokenError

_ATTEMPTS: Final = 4
"""How often a log that is there is asked for; what came before is not read again."""


@dataclass(slots=True)
class Cursor:
    """How far a pod's log has been read.

    The server can only be asked for lines since a whole second, so what that second already gave is
    counted and passed over.
    """

    since_seconds: int = 0
    """Where nothing was read yet: begin so long before the present; 0: at the beginning."""
    tail: int = 0
    """Where nothing was read yet: pass over all but so many newest of the wanted lines; 0: none."""
    uid: str = ""
    """Of the pod: one of the same name that came after it has a log of its own."""
    stamp: str = ""
    """The newest line's time."""
    count: int = 0
    """Lines that were read with that very time."""
    _passed: int = 0

    def turn_to(self, uid: str) -> None:
        """Go on with a pod; one that came after another is read from its beginning."""
        if self.uid and self.uid != uid:
            self.since_seconds, self.tail, self.stamp, self.count = 0, 0, "", 0
        self.uid = uid

    def attach(self) -> dict[str, str]:
        """Return what to ask the server for, to go on after the last line that was read."""
        self._passed = 0
        if self.stamp:
            return {"sinceTime": f"{self.stamp[:19]}Z"}
        return {"sinceSeconds": str(self.since_seconds)} if self.since_seconds else {}

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


def read_lines(api: Api, pod: str, cursor: Cursor, *, follow: bool) -> Iterator[str]:
    """Yield the lines that the cursor has not seen, without their line ends.

    A connection that breaks within a line ends them before that line, quietly where they are
    followed: the whole of it comes with the next call.

    Args:
        api: The namespace.
        pod: Its name.
        cursor: Is moved on.
        follow: Stay until the log ends.

    Raises:
        LogBrokenError: What is not followed broke off several times.
    """
    for left in reversed(range(1 if follow else _ATTEMPTS)):
        query = {"timestamps": "true", "follow": str(follow).lower(), **cursor.attach()}
        try:
            for line in _split_lines(api, pod, query):
                stamp, _, text = line.decode(errors="replace").partition(" ")
                if cursor.is_new(_normalise(stamp)):
                    yield text
        except LogBrokenError:
            if not left and not follow:
                raise
        else:
            return


def _split_lines(api: Api, pod: str, query: dict[str, str]) -> Iterator[bytes]:
    rest = b""
    for piece in api.stream_log(pod, query):
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    if rest:
        yield rest  # the process died within a line


def _normalise(stamp: str) -> str:
    """Return a time stamp in a form that sorts as text, whatever its number of decimals."""
    seconds, _, fraction = stamp.rstrip("Z").partition(".")
    return f"{seconds}.{fraction:0<9}"
