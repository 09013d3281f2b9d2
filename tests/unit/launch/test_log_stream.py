"""No line lost, none twice, wherever a connection breaks."""

from __future__ import annotations

import base64
import gzip
import itertools
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterfit.launch.api import LogBrokenError
from clusterfit.launch.log_copies import EXIT_NONE, main, unpack_lines
from clusterfit.launch.log_stream import Cursor, PlaceLostError, read_lines

from .api_server import Answer, serve
from .object_server import write_stamp

SECOND = 10**9
BASE = 1_795_428_000 * SECOND
"""The first moment of the logs that are read here: 2026-11-23T10:00:00Z."""

Log = list[tuple[int, str]]
"""Times of lines, and what they say."""

FORWARD = st.sampled_from([0, 0, 1, 10**6, SECOND, 60 * SECOND])
LATE = st.sampled_from([-1, -(10**4), -SECOND])
"""How much earlier than the line before it another stream's line is stamped."""
BACK = st.sampled_from([-5 * SECOND, -3600 * SECOND])
"""How far a clock is set back."""


def write_log(steps: list[int]) -> Log:
    moments = itertools.accumulate(steps, initial=BASE)
    return [(moment, f"line {number}") for number, moment in enumerate(moments)]


def read_on(cursor: Cursor, log: Log, threshold: int = 0, *, breaks: bool = True) -> list[str]:
    """Return what a cursor takes for new of what the kubelet gives."""

    def take(query: dict[str, str]) -> list[str]:
        since = threshold if "sinceSeconds" in query else 0
        given = log[-int(query.get("tailLines", "0")) :]
        return [text for line in given if line[0] >= since for text in cursor.take(*line)]

    try:
        new = take(cursor.attach())
    except PlaceLostError:
        new = take(cursor.attach_widely())
    return new if breaks else [*new, *cursor.finish()]


@given(
    steps=st.lists(FORWARD | LATE | BACK, max_size=30),
    breaks=st.lists(st.tuples(st.integers(0, 31), st.booleans()), max_size=5),
    kept=st.integers(1, 40),
)
def test_a_cursor_passes_over_exactly_what_was_read(
    steps: list[int], breaks: list[tuple[int, bool]], kept: int
) -> None:
    log, cursor = write_log(steps), Cursor()
    read = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clusterfit.launch.log_stream._KEPT_LINES", kept)
        for end, is_break in [*sorted(breaks), (len(log), False)]:
            read += read_on(cursor, log[:end], breaks=is_break)
    assert read == [text for _, text in log]


@given(
    steps=st.lists(FORWARD, min_size=1, max_size=30),
    breaks=st.lists(st.integers(0, 31), max_size=5),
    first=st.integers(0, 30),
    kept=st.integers(1, 40),
)
def test_a_cursor_of_the_newest_seconds_never_shows_what_is_older(
    steps: list[int], breaks: list[int], first: int, kept: int
) -> None:
    log, cursor = write_log(steps), Cursor(since_seconds=60)
    threshold = log[min(first, len(steps))][0]
    read = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clusterfit.launch.log_stream._KEPT_LINES", kept)
        for end in [*sorted(breaks), len(log)]:
            read += read_on(cursor, log[:end], threshold)
    assert read == [text for moment, text in log if moment >= threshold]


def test_within_a_connection_every_line_is_shown(tmp_path: Path) -> None:
    body = "".join(f"2026-11-23T10:00:0{at}Z at {at}\n" for at in ("5", "4.99", "3", "6"))
    with serve(tmp_path, Answer(200, body.encode())) as server:
        lines = list(read_lines(server.open(), "pod", Cursor(), follow=False))
    assert lines == ["at 5", "at 4.99", "at 3", "at 6"]


@pytest.mark.parametrize("minute", [59, 30, 0])
def test_of_a_log_that_was_begun_anew_every_line_is_shown(minute: int, tmp_path: Path) -> None:
    """The kubelet gives the newest of a log's files: nothing in it tells what was read before."""
    old = "".join(f"2026-11-23T10:{at // 60:02}:{at % 60:02}Z old\n" for at in range(3000))
    new = "".join(f"2026-11-23T10:{minute:02}:00.{at}Z new\n" for at in range(3))
    with serve(tmp_path, Answer(200, old.encode()), Answer(200, new.encode())) as server:
        api, cursor = server.open(), Cursor()
        assert list(read_lines(api, "pod", cursor, follow=False)) == ["old"] * 3000
        assert list(read_lines(api, "pod", cursor, follow=True)) == ["new"] * 3


def test_after_the_last_line_that_was_read_all_are_shown_as_they_come() -> None:
    cursor = Cursor()
    log = [(BASE + at * SECOND, str(at)) for at in range(1000)]
    assert len(read_on(cursor, log)) == 1000
    assert read_on(cursor, [*log, (BASE, "set back")]) == ["set back"]


def test_a_log_that_was_read_is_not_sent_again_unless_much_was_said(tmp_path: Path) -> None:
    lines = [f"2026-11-23T12:00:00.{at:03}+02:00 {at}\n" for at in range(1000)]
    first, newest = "".join(lines[:600]).encode(), "".join(lines[-256:]).encode()
    broken = Answer(200, first, {"Content-Length": str(len(first) + 9), "Connection": "close"})
    whole = Answer(200, "".join(lines).encode())
    with serve(tmp_path, broken, Answer(200, newest), whole, Answer(200, newest)) as server:
        api, cursor = server.open(), Cursor()
        assert list(read_lines(api, "pod", cursor, follow=False)) == list(map(str, range(1000)))
        assert list(read_lines(api, "pod", cursor, follow=False)) == []
        asked = ["tailLines=256" in path for _, path, _ in server.requests]
        assert asked == [False, True, False, True]


def test_what_the_kubelet_says_instead_of_a_log_is_shown_once(tmp_path: Path) -> None:
    gone = b"unable to retrieve container logs for containerd://6dd2"
    stamped = b"2026-11-23T10:00:01Z one\n"
    with serve(tmp_path, Answer(200, stamped + gone)) as server:
        api, cursor = server.open(), Cursor()
        assert list(read_lines(api, "pod", cursor, follow=True)) == ["one", gone.decode()]
        assert list(read_lines(api, "pod", cursor, follow=True)) == []
    with serve(tmp_path, Answer(200, gone + b"\n" + stamped)) as server:
        read = list(read_lines(server.open(), "pod", Cursor(), follow=True))
        assert read == [gone.decode(), "one"]


def test_a_line_that_breaks_off_comes_whole_the_next_time(tmp_path: Path) -> None:
    first = b"2026-11-23T10:00:01.5Z one\n2026-11-23T10:00:02Z tw"
    # A Content-Length beyond the body is a connection that broke.
    broken = Answer(200, first, {"Content-Length": str(len(first) + 100), "Connection": "close"})
    whole = Answer(200, first + b"o\n2026-11-23T10:00:02Z two\n")
    with serve(tmp_path, broken, whole) as server:
        api, cursor = server.open(), Cursor()
        lines = read_lines(api, "pod", cursor, follow=True)
        assert next(lines) == "one"
        with pytest.raises(LogBrokenError):
            next(lines)
        assert list(read_lines(api, "pod", cursor, follow=True)) == ["two", "two"]
        assert "tailLines" not in server.requests[0][1]
        assert "tailLines=1" in server.requests[1][1]


def test_a_log_that_is_there_is_read_to_its_end_or_said_to_be_cut(tmp_path: Path) -> None:
    first = b"2026-11-23T10:00:01.5Z one\n2026-11-23T10:00:02Z tw"
    broken = Answer(200, first, {"Content-Length": str(len(first) + 100), "Connection": "close"})
    whole = Answer(200, first + b"o\n")
    with serve(tmp_path, broken, broken, whole) as server:
        assert list(read_lines(server.open(), "pod", Cursor(), follow=False)) == ["one", "two"]
    with serve(tmp_path, broken) as server:
        lines = read_lines(server.open(), "pod", Cursor(), follow=False)
        assert next(lines) == "one"
        with pytest.raises(LogBrokenError, match="the log of pod broke off"):
            next(lines)
        assert len(server.requests) == 4


def test_the_newest_seconds_are_asked_for_until_there_is_a_line_and_of_the_first_pod() -> None:
    cursor = Cursor(since_seconds=60)
    cursor.turn_to("first")
    assert cursor.attach() == cursor.attach() == {"sinceSeconds": "60"}
    assert cursor.take(BASE, "one") == ["one"]
    cursor.turn_to("first")
    assert cursor.attach() == {"tailLines": "1"}
    cursor.turn_to("second")
    assert cursor.attach() == {}


def test_the_last_words_of_a_process_need_no_line_end(tmp_path: Path) -> None:
    with serve(tmp_path, Answer(200, b"2026-11-23T10:00:01Z fatal: out of")) as server:
        assert list(read_lines(server.open(), "pod", Cursor(), follow=False)) == ["fatal: out of"]


def read_packed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return unpack_lines(capsys.readouterr().out.splitlines())


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    for attempt, ranks in ((1, 1), (9, 2), (10, 2)):
        folder = tmp_path / f"attempt-{attempt}"
        folder.mkdir()
        for rank in range(ranks):
            lines = [
                f"ts=2026-11-23T10:00:0{2 * number + rank}.000Z rank={rank} msg={attempt}\n"
                for number in range(2)
            ]
            (folder / f"rank-{rank:05}.log").write_text("".join([*lines, "Traceback"]))
    return tmp_path


def test_copies_of_the_newest_attempt_come_in_the_order_of_time(
    copies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(copies)]) == 0
    lines = read_packed(capsys)
    ranks = [line.partition("rank=")[2][:1] for line in lines]
    assert ranks == ["0", "1", "0", "", "1", ""]
    assert all("msg=10" in line for line in lines if "msg" in line)


def test_copies_of_one_rank_of_the_attempt_before(
    copies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(copies), "--back=1", "--rank=1"]) == 0
    lines = read_packed(capsys)
    assert len(lines) == 3
    assert all("rank=1 msg=9" in line for line in lines[:2])


def test_copies_of_all_attempts_from_a_moment_on(
    copies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(copies), "--since=2026-11-23T10:00:02.000Z"]) == 0
    lines = [line for line in read_packed(capsys) if line.startswith("ts=")]
    assert [line.partition(" ")[2] for line in lines] == [
        "rank=0 msg=1", "rank=0 msg=9", "rank=0 msg=10", "rank=1 msg=9", "rank=1 msg=10",
    ]  # fmt: skip


def test_copies_of_the_newest_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "attempt-1" / "rank-00000.log"
    path.parent.mkdir()
    now = datetime.now(UTC)
    ages = (7200, 1000, 3)
    stamps = [write_stamp(now - timedelta(seconds=age)) for age in ages]
    lines = zip(stamps, ages, strict=True)
    path.write_text("".join(f"ts={stamp} rank=0 msg={age}\nTraceback\n" for stamp, age in lines))
    for seconds, wanted in ((0, ages), (3600, (1000, 3)), (600, (3,)), (1, ())):
        assert main([str(tmp_path), f"--seconds={seconds}"]) == 0
        shown = read_packed(capsys)
        assert [line.partition("msg=")[2] for line in shown[::2]] == list(map(str, wanted))
        assert shown[1::2] == ["Traceback"] * len(wanted), "it goes with the line before it"


@pytest.mark.parametrize("arguments", [["--back=3"], ["--rank=7"]])
def test_copies_that_are_not_there(arguments: list[str], copies: Path) -> None:
    assert main([str(copies), *arguments]) == EXIT_NONE
    assert main([str(copies / "none")]) == EXIT_NONE


def test_copies_leave_their_pod_as_a_gzip_stream_in_lines_that_stay_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "attempt-1" / "rank-00000.log"
    path.parent.mkdir()
    numbers = random.Random(0)
    lines = [
        f"ts=2026-11-23T10:00:00.000Z rank=0 msg=grün loss={numbers.random()}" for _ in range(9999)
    ]
    path.write_text("".join(f"{line}\n" for line in lines))
    assert main([str(tmp_path)]) == 0
    packed = capsys.readouterr().out.splitlines()
    assert len(packed) > 10
    assert max(map(len, packed)) <= 8192
    stream = b"".join(base64.b64decode(line) for line in packed)
    assert gzip.decompress(stream).decode().splitlines() == lines
    assert len(stream) * 4 < path.stat().st_size
    assert unpack_lines(packed) == lines
    for part in (packed[1:], packed[:-1], [*packed[:3], *packed[4:]], ["Traceback"], []):
        with pytest.raises(ValueError, match="packed"):
            unpack_lines(part)
