"""No line lost, none twice, wherever a connection breaks."""

from __future__ import annotations

import base64
import gzip
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterfit.launch.api import LogBrokenError
from clusterfit.launch.log_copies import EXIT_NONE, main, unpack_lines
from clusterfit.launch.log_stream import Cursor, read_lines

from .api_server import Answer, serve
from .object_server import write_stamp


def stamp(nanoseconds: int) -> str:
    """Write a time as the kubelet does, which leaves off the zeros at the end."""
    seconds, rest = divmod(nanoseconds, 10**9)
    fraction = f"{rest:09}".rstrip("0")
    return f"2026-11-23T10:00:{seconds:02}{'.' + fraction if fraction else ''}Z"


@given(
    steps=st.lists(st.sampled_from([0, 0, 1, 10**6, 10**9]), min_size=1, max_size=30),
    breaks=st.lists(st.integers(0, 30), max_size=5),
)
def test_a_cursor_passes_over_exactly_what_was_read(steps: list[int], breaks: list[int]) -> None:
    log, moment = [], 0
    for number, step in enumerate(steps):
        moment = min(moment + step, 59 * 10**9)
        log.append((stamp(moment), f"line {number}"))
    cursor = Cursor()
    read = []
    for end in [*sorted(breaks), len(log)]:
        since = cursor.attach().get("sinceTime", "")
        for at, text in log[:end]:
            # The server gives whole seconds back.
            if at[:19] >= since[:19] and cursor.is_new(normal(at)):
                read.append(text)
    assert read == [text for _, text in log]


def normal(at: str) -> str:
    seconds, _, fraction = at.rstrip("Z").partition(".")
    return f"{seconds}.{fraction:0<9}"


def test_a_line_that_breaks_off_comes_whole_the_next_time(tmp_path: Path) -> None:
    first = b"2026-11-23T10:00:01.5Z one\n2026-11-23T10:00:02Z tw"
    # A Content-Length beyond the body is a connection that broke.
    broken = Answer(200, first, {"Content-Length": str(len(first) + 100), "Connection": "close"})
    whole = Answer(200, first + b"o\n2026-11-23T10:00:02Z two\n")
    with serve(tmp_path, broken, whole) as server:
        api, cursor = server.open(), Cursor()
        assert list(read_lines(api, "pod", cursor, follow=True)) == ["one"]
        assert list(read_lines(api, "pod", cursor, follow=True)) == ["two", "two"]
        assert "since" not in server.requests[0][1]
        assert "sinceTime=2026-11-23T10%3A00%3A01Z" in server.requests[1][1]


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
    assert cursor.is_new(normal("2026-11-23T10:00:01.5Z"))
    assert cursor.attach() == {"sinceTime": "2026-11-23T10:00:01Z"}
    cursor.turn_to("first")
    assert cursor.attach() == {"sinceTime": "2026-11-23T10:00:01Z"}
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
