"""What a dead pod did not stream comes from the copies, and its successor is not told twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clusterfit.launch.log_seen import Seen


def line(rank: int, moment: int, text: str = "x") -> str:
    return f"ts=2026-11-23T10:00:00.{moment:03}Z level=info stage=train rank={rank} msg={text}"


@given(
    moments=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=20),
    streamed=st.integers(0, 20),
    successor=st.integers(0, 5),
    begun=st.integers(0, 5),
)
def test_each_line_is_shown_once(
    moments: list[tuple[int, int]], streamed: int, successor: int, begun: int
) -> None:
    moment = 0
    log = []
    for number, (rank, step) in enumerate(moments):
        moment += step
        log.append(line(rank, moment, f"a{number % 2}"))
    later = [line(number % 2, moment + 1 + number // 2) for number in range(successor)]
    seen = Seen()
    shown = log[:streamed]
    for text in shown:
        seen.add(text)
    if seen.since:
        start = seen.find_start([0, 1])
        copies = [text for text in log + later[:begun] if text.split(" ")[0][3:] >= start]
        shown += seen.find_missing(copies)
    else:
        shown += log
    seen.begin()
    shown += [text for text in later if seen.is_new(text)]
    for rank in range(2):
        mine = f" rank={rank} "
        assert [x for x in shown if mine in x] == [x for x in log + later if mine in x]


def test_what_no_rank_said_is_in_no_copy() -> None:
    seen = Seen()
    seen.add("Traceback (most recent call last):")
    assert seen.since == ""
    assert seen.is_new("Traceback (most recent call last):")
