"""What a dead pod did not stream comes from the copies, and its successor is not told twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clusterfit.launch.log_seen import Seen


def line(rank: int, moment: int, text: str = "x") -> str:
    return f"ts=2026-11-23T10:00:00.{moment:03}Z level=info stage=train rank={rank} msg={text}"


lives = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3)), max_size=12)


@given(
    lives=st.lists(st.tuples(lives, st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=4)
)
def test_each_line_is_shown_once(
    lives: list[tuple[list[tuple[int, int]], int, int]],
) -> None:
    """Of each pod a part was copied when it was found, and a part streamed before it died."""
    moment, logs, starts = 0, [], []
    for number, (steps, _, _) in enumerate(lives):
        starts.append(line(0, moment).split(" ")[0][3:])
        log = []
        for turn, (rank, step) in enumerate(steps):
            moment += step
            log.append(line(rank, moment, f"{number}{turn % 2}"))
        logs.append(log)
        moment += 1
    seen = Seen()
    shown: list[str] = []

    def fill(copies: list[str]) -> None:
        start = seen.find_start([0, 1])
        shown.extend(seen.find_missing(x for x in copies if x.split(" ")[0][3:] >= start))

    for number, (_, copied, streamed) in enumerate(lives):
        if number:
            fill([text for log in logs[:number] for text in log] + logs[number][:copied])
        seen.begin(starts[number])
        shown += [text for text in logs[number][:streamed] if seen.take(text)]
    fill([text for log in logs for text in log])
    for rank in range(2):
        said = [text for log in logs for text in log if f" rank={rank} " in text]
        assert [text for text in shown if f" rank={rank} " in text] == said


def test_a_pod_of_which_only_the_newest_lines_are_wanted_is_not_filled_before_them() -> None:
    seen = Seen()
    seen.begin()
    assert seen.take(line(0, 5))
    copies = [line(0, 3), line(0, 5), line(1, 4), line(0, 6), line(1, 7)]
    assert list(seen.find_missing(copies)) == [line(0, 6), line(1, 7)]


def test_what_no_rank_said_is_in_no_copy() -> None:
    seen = Seen()
    assert seen.take("Traceback (most recent call last):")
    assert seen.since == ""
    assert seen.take("Traceback (most recent call last):")
