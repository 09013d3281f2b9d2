"""The log of one pod, line by line, without loss or repetition across broken connections."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from clusterfit.launch.api import Api, LogBrokenError

_ATTEMPTS: Final = 4
"""How often a log that is there is asked for; what came before is not read again."""
_KEPT_LINES: Final = 256
"""By so many of the newest lines a cursor finds its place again."""
_SECOND: Final = 10**9
"""In the unit of times here: nanoseconds since 1970."""
_STAMP: Final = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII
)


class PlaceLostError(Exception):
    """More was said since the last connection than the server was asked for."""


@dataclass(slots=True)
class Cursor:
    """How far a pod's log has been read.

    Within one connection every line is new, whatever its time: a node's clock is set back now and
    then, and a process's two streams are stamped apart. When another connection goes on, the server
    is asked for as many of the newest lines as are kept here, by their place in the log and not by
    their time; where the first of them is none of the kept, for the whole log.

    There a line is known to have been read where a kept one comes after it, and known to be new
    where it is newer than all that were read and forgotten. One that may be either waits for a line
    that tells, or for the end of the log, and is then shown: the server gives only the newest of a
    log's files, so that all of the kept lines may be gone. Better twice than not at all.
    """

    since_seconds: int = 0
    """Where nothing was read yet: begin so long before the present; 0: at the beginning."""
    tail: int = 0
    """Where nothing was read yet: pass over all but so many newest of the wanted lines; 0: none."""
    uid: str = ""
    """Of the pod: one of the same name that came after it has a log of its own."""
    _kept: deque[tuple[int, int]] = field(default_factory=deque)
    """Of the newest lines that were read, in the file's order: time, and a hash of the text."""
    _forgotten: int = 0
    """Lines after this time that were read are all kept; 0: simply all of them are."""
    _awaited: Counter[tuple[int, int]] = field(default_factory=Counter)
    """The kept lines that may come again before anything new does."""
    _must_meet: bool = False
    """Whether the next line is one of these, or there is a gap before it."""
    _undecided: list[tuple[int, str]] = field(default_factory=list)
    _remark: str = ""
    """What the server itself said last, instead of the log."""

    @property
    def has_begun(self) -> bool:
        """Whether a line was read."""
        return bool(self._kept)

    def turn_to(self, uid: str) -> None:
        """Go on with a pod; one that came after another is read from its beginning."""
        if self.uid and self.uid != uid:
            self.since_seconds, self.tail, self._forgotten, self._remark = 0, 0, 0, ""
            self._kept.clear()
        self.uid = uid

    def attach(self) -> dict[str, str]:
        """Return what to ask the server for, to go on after the last line that was read."""
        self._begin_again()
        if self._kept:
            self._must_meet = True
            return {"tailLines": str(len(self._kept))}
        return {"sinceSeconds": str(self.since_seconds)} if self.since_seconds else {}

    def attach_widely(self) -> dict[str, str]:
        """Return what to ask the server for after `PlaceLostError`."""
        self._begin_again()
        return {}

    def _begin_again(self) -> None:
        self._must_meet = False
        self._undecided.clear()
        self._awaited = Counter(self._kept)

    def take(self, time: int, text: str) -> list[str]:
        """Return the lines that are known to be new, now that one more has come.

        Raises:
            PlaceLostError: There may be others between it and the last line that was read.
        """
        line = time, hash(text)
        if not self._awaited:
            self._keep(line)
            return [text]
        if self._must_meet and not self._awaited[line]:
            raise PlaceLostError
        self._must_meet = False
        if self._awaited[line]:
            self._undecided.clear()
            self._awaited[line] -= 1
            if line == self._kept[-1] and not self._awaited[line]:
                self._awaited.clear()
            return []
        self._undecided.append((time, text))
        return self.finish() if time > self._forgotten else []

    def finish(self) -> list[str]:
        """Return the lines that are new because nothing that was read has come after them."""
        new = list(self._undecided)
        self._undecided.clear()
        self._awaited.clear()
        for time, text in new:
            self._keep((time, hash(text)))
        return [text for _, text in new]

    def take_remark(self, text: str) -> list[str]:
        """Return what the server says instead of the log, unless it has just said so."""
        is_new, self._remark = text != self._remark, text
        return [text] if is_new else []

    def _keep(self, line: tuple[int, int]) -> None:
        if not self._kept and self.since_seconds:
            self._forgotten = line[0] - 1  # lines before it are there and were not asked for
        self._kept.append(line)
        if len(self._kept) > _KEPT_LINES:
            self._forgotten = max(self._forgotten, self._kept.popleft()[0])


def read_lines(api: Api, pod: str, cursor: Cursor, *, follow: bool) -> Iterator[str]:
    """Yield the lines that the cursor has not seen, without their line ends.

    A connection that breaks within a line ends them before that line: the whole of it comes with
    the next call.

    Args:
        api: The namespace.
        pod: Its name.
        cursor: Is moved on.
        follow: Stay until the log ends.

    Raises:
        LogBrokenError: It broke off; what is not followed, several times.
    """
    for left in reversed(range(1 if follow else _ATTEMPTS)):
        try:
            try:
                yield from _take_lines(api, pod, cursor, cursor.attach(), follow=follow)
            except PlaceLostError:
                yield from _take_lines(api, pod, cursor, cursor.attach_widely(), follow=follow)
        except LogBrokenError:
            if not left:
                raise
        else:
            return


def _take_lines(
    api: Api, pod: str, cursor: Cursor, which: dict[str, str], *, follow: bool
) -> Iterator[str]:
    query = {"timestamps": "true", "follow": str(follow).lower(), **which}
    for line in _split_lines(api, pod, query):
        whole = line.decode(errors="replace")
        stamp, _, text = whole.partition(" ")
        time = _read_stamp(stamp)
        yield from cursor.take_remark(whole) if time is None else cursor.take(time, text)
    yield from cursor.finish()


def _split_lines(api: Api, pod: str, query: dict[str, str]) -> Iterator[bytes]:
    rest = b""
    for piece in api.stream_log(pod, query):
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    if rest:
        yield rest  # the process died within a line


def _read_stamp(stamp: str) -> int | None:
    """Return a line's time; None where it has none, because the log is not there to be read."""
    match = _STAMP.fullmatch(stamp)
    if match is None:
        return None
    seconds, fraction, zone = match.groups()
    moment = datetime.fromisoformat(f"{seconds}{zone}")
    return int(moment.timestamp()) * _SECOND + int(f"{fraction or '':0<9}")
