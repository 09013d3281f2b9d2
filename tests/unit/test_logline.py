"""What the worker says, its readers understand, whatever it is; anybody else's line is left."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clusterfit.logline import Progress, format_line, parse_line, read_progress

LOW_SURROGATES = st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF)  # os.fsdecode's
TEXTS = st.text(st.characters() | LOW_SURROGATES)
KEYS = st.text(string.ascii_letters + string.digits + "_.", min_size=1).map("k{}".format)

PROGRESS = {
    "ts": "2026-11-23T10:00:00.000Z",
    "msg": "progress",
    "stage": "extract",
    "done": "512",
    "total": "1797",
    "unit": "images",
    "rate": "85.5",
    "eta_seconds": "15",
}


@given(st.dictionaries(KEYS, TEXTS))
@example({"k": ""})
@example({"k": 'quote " backslash \\ equals = tab \t'})
@example({"k": "line\nline\r\nline\u2028line\u2029line\x85line\x0bline\x1c"})
@example({"k": "\\n is not a line end", "kk": "ts=1 level=info"})
@example({"k": "Grüße, 世界 🙂"})
@example({"k": "not UTF-8: \udce9"})
def test_any_text_comes_back_as_it_was_from_a_single_line(fields: dict[str, str]) -> None:
    line = format_line({"ts": "now", **fields})
    assert line.splitlines() == [line]
    assert line.encode("utf-8")
    assert parse_line(line) == {"ts": "now", **fields}
    assert parse_line(line + "\n") == parse_line(line + "\r\n") == parse_line(line)


def test_fields_keep_their_order_and_plain_words_stay_bare() -> None:
    line = format_line({"ts": "now", "b": 1, "a": "word", "c": "two words", "d": "a=b"})
    assert line == 'ts=now b=1 a=word c="two words" d="a=b"'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (3, "3"),
        (0.1 + 0.2, "0.3"),
        (1e-7, "1e-07"),
        (None, "None"),
    ],
)
def test_numbers_and_booleans_are_written_for_people(value: object, text: str) -> None:
    assert parse_line(format_line({"ts": "now", "value": value})) == {"ts": "now", "value": text}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Traceback (most recent call last):",
        "node-1:19:19 [0] NCCL INFO Bootstrap : Using eth0",
        "level=info ts=now msg=ours-begin-with-ts",
        " ts=now msg=indented",
        'ts=now msg="torn',
        'ts=now msg="torn\\',
        "ts=now msg=pro Warning: somebody else's words",
        "ts=now  msg=two-spaces",
        'ts=now msg="a"b',
        'ts=now msg=a"b"',
        'ts=now msg="bad \\x escape"',
        'ts=now msg="a raw\ttab"',
        "ts=now =value",
        "ts=now 1=value",
        "ts=now level=info msg=a ts=now level=info msg=b",
    ],
)
def test_a_torn_or_foreign_line_is_not_ours(line: str) -> None:
    assert parse_line(line) is None


@given(st.text())
def test_no_line_is_too_strange_to_be_looked_at(line: str) -> None:
    parse_line(line)
    parse_line(f"ts={line}")
    parse_line(f'ts=now msg="{line}"')


def test_progress_is_read_from_a_line() -> None:
    line = format_line(PROGRESS)
    fields = parse_line(line)
    assert fields is not None
    assert read_progress(fields) == Progress("extract", 512, 1797, "images", 85.5, 15.0)


@pytest.mark.parametrize("missing", ["stage", "done", "total", "unit", "rate", "eta_seconds"])
def test_a_line_that_lacks_a_number_reports_no_progress(missing: str) -> None:
    assert read_progress({k: v for k, v in PROGRESS.items() if k != missing}) is None


@pytest.mark.parametrize(
    "change",
    [
        {"msg": "finished"},
        {"done": "many"},
        {"total": "1.5"},
        {"rate": ""},
        {"eta_seconds": "nan"},
        {"rate": "inf"},
    ],
)
def test_a_line_whose_numbers_are_none_reports_no_progress(change: dict[str, str]) -> None:
    assert read_progress(PROGRESS | change) is None
