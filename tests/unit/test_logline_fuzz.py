"""Log lines by chance: what was written comes back, and no line ends a reader."""

from __future__ import annotations

import io
import random

import pytest
from rich.console import Console

from clusterfit.launch.progress import StageDisplay
from clusterfit.logline import format_line, parse_line
from tests.chance import damage_text, draw_cases

pytestmark = pytest.mark.campaign

PROGRESS = (
    "ts=2026-11-23T10:00:00.000Z level=info stage=extract rank=0 msg=progress done=512 total=1797 "
    "unit=images rate=85.5 eta_seconds=15"
)
WARNING = 'ts=1 level=warning stage=train rank=3 msg="unreadable image" why="a \\"b\\" \\u00e9"'
PIECES = [
    *'=" \\\t\r\n\x00\x1b[]{}', "ts=1 ", 'msg="', "\\u", "\\ud800", "\x85", "\u2028", "\udcff",
    "nan", "inf", "-1", "1e999", "9" * 400, "9" * 5000, "done=", "level=error ", "msg=finished ",
    "[red]",
]  # fmt: skip


def _draw_text(chance: random.Random) -> str:
    alphabet = chance.choice(['ab "=\\', "\x00\x1f\n\r\t\x7f", "é世🙂\udc80\u2028\x85\ufeff"])
    return "".join(chance.choices(alphabet, k=chance.randint(0, 8)))


def test_fields_come_back_as_they_were() -> None:
    for label, chance in draw_cases("fields", 20_000):
        fields = {f"k{number}": _draw_text(chance) for number in range(chance.randint(0, 4))}
        line = format_line({"ts": "1", **fields})
        assert line.splitlines() == [line], label
        assert parse_line(line) == {"ts": "1", **fields}, label


def test_any_line_can_be_shown() -> None:
    with StageDisplay(Console(file=io.StringIO(), force_terminal=True, width=100)) as view:
        for label, chance in draw_cases("line", 600):
            if chance.random() < 0.01:
                view.begin("train")
            text = damage_text(chance.choice([PROGRESS, WARNING]), PIECES, chance)
            for line in text.encode(errors="replace").decode().splitlines():
                try:
                    view.show(line)
                except Exception as error:
                    raise AssertionError(f"{label}: {line!a}") from error
            if chance.random() < 0.01:
                view.end(chance.choice([0, 65]))
