"""What of a pod's log has been shown, to tell from the copies on the claim what has not.

A pod that dies takes with it what was not streamed yet. The copies have it; they may also have what
its successor has begun to say, which then comes a second time from the successor's own log.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from clusterfit.logline import parse_line


@dataclass(slots=True)
class Seen:
    """The newest lines of one pod, rank by rank."""

    since: str = ""
    """From when on what it said is wanted: its start, or its first line that was read."""
    _newest: dict[str, str] = field(default_factory=dict)
    _twins: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    _early: Counter[str] = field(default_factory=Counter)

    def begin(self, since: str = "") -> None:
        """Turn to a pod that started then; what was shown of it early is remembered.

        Args:
            since: Without it only what comes after its first line that is read will be missed.
        """
        self.since = since
        self._newest.clear()
        self._twins.clear()

    def take(self, line: str) -> bool:
        """Take in a line of the pod's own log; tell whether it was not shown from the copies."""
        self._remember(line)
        if self._early[line]:
            self._early[line] -= 1
            return False
        return True

    def find_start(self, ranks: Iterable[int]) -> str:
        """Return the time from which on lines of some ranks may not have been shown."""
        return min(self._newest.get(str(rank), self.since) for rank in ranks)

    def find_missing(self, copies: Iterable[str]) -> Iterator[str]:
        """Yield those of the copied lines, from `find_start` on, that were not shown."""
        twins = {rank: Counter(lines) for rank, lines in self._twins.items()}
        early = Counter(self._early)
        for line in copies:
            fields = parse_line(line) or {}
            rank, stamp = fields.get("rank", ""), fields.get("ts", "")
            newest = self._newest.get(rank, self.since)
            if stamp < newest:
                continue
            if stamp == newest and twins.get(rank, Counter())[line]:
                twins[rank][line] -= 1
            elif early[line]:
                early[line] -= 1
            else:
                self._early[line] += 1
                yield line

    def _remember(self, line: str) -> None:
        fields = parse_line(line) or {}
        if "rank" not in fields or "ts" not in fields:
            return
        stamp, rank = fields["ts"], fields["rank"]
        self.since = self.since or stamp
        if stamp != self._newest.get(rank):
            self._newest[rank] = stamp
            self._twins[rank].clear()
        self._twins[rank][line] += 1
