"""On a terminal lines become a bar and what needs attention; elsewhere they stay as they are."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from clusterfit.launch.progress import StageDisplay, format_seconds
from clusterfit.logline import format_line


def line(msg: str, level: str = "info", stage: str = "train", **fields: object) -> str:
    head = {"ts": "2026-11-23T10:00:00Z", "level": level, "stage": stage, "rank": 0, "msg": msg}
    return format_line(head | fields)


def draw(*lines: str, exit_code: int = 0) -> str:
    """Return all that a terminal of 100 columns was sent."""
    output = StringIO()
    with StageDisplay(
        Console(file=output, force_terminal=True, width=100, highlight=False)
    ) as view:
        view.begin("train")
        for each in lines:
            view.show(each)
        view.end(exit_code)
    return output.getvalue()


def test_without_a_terminal_the_lines_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line("progress", done=1), "Traceback (most recent call last):", ""]
    with StageDisplay(Console(file=StringIO())) as view:
        view.begin("train")
        for each in lines:
            view.show(each)
        view.end(0)
    assert capsys.readouterr().out.splitlines() == lines


def test_progress_becomes_a_bar_with_the_time_left() -> None:
    output = StringIO()
    with StageDisplay(Console(file=output, force_terminal=True, width=100)) as view:
        view.begin("train")
        view.show(
            line("progress", unit="steps", rate=12.4, done=1500, total=12000, eta_seconds=3725)
        )
    assert "1,500/12,000 steps  12/s  1:02:05 left" in output.getvalue()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0:00"),
        (65, "1:05"),
        (3599.4, "59:59"),
        (3599.6, "1:00:00"),
        (3725, "1:02:05"),
        (259200, "72:00:00"),
        (-1, "?"),
    ],
)
def test_a_time_has_hours_from_the_first_one_on(seconds: float, said: str) -> None:
    assert format_seconds(seconds) == said


def test_before_there_is_a_rate_the_time_left_is_unknown() -> None:
    output = StringIO()
    with StageDisplay(Console(file=output, force_terminal=True, width=100)) as view:
        view.begin("train")
        view.show(line("progress", unit="steps", rate=0, done=0, total=7, eta_seconds=-1))
    assert "0/7 steps  0/s  ? left" in output.getvalue()


def test_warnings_errors_and_foreign_lines_are_shown_and_chatter_is_not() -> None:
    text = draw(
        line("unreadable image", "warning", sample_index=3, why="cut [bold]short[/bold]"),
        line("process group", world_size=2),
        "NCCL WARN [red]not markup[/red]",
        line("the disk is full", "error", exit_code=73),
        exit_code=73,
    )
    assert "warning: unreadable image (rank 0)" in text
    assert "sample_index: 3" in text
    assert "why: cut [bold]short[/bold]" in text
    assert "NCCL WARN [red]not markup[/red]" in text
    assert "error: the disk is full" in text
    assert "exit 73" in text
    assert "process group" not in text


def test_a_finished_stage_says_what_it_found() -> None:
    text = draw(line("finished", folder="/somewhere/long", objective=12.5, num_empty=0))
    assert "objective 12.5  num_empty 0" in text
    assert "/somewhere/long" not in text


def test_a_stage_that_was_finished_before_says_so() -> None:
    assert "already finished" in draw(line("already finished"))


def test_what_was_found_is_cut_to_the_terminals_width() -> None:
    text = draw(line("finished", objective="x" * 100, last="y"))
    assert "…" in text
    assert "last y" not in text


def test_a_line_of_the_next_stage_ends_a_bar_and_begins_the_next() -> None:
    text = draw(
        line("finished", num_images=3),
        line("started", stage="evaluate"),
        line(
            "progress", stage="evaluate", unit="backbones", rate=1, done=1, total=2, eta_seconds=1
        ),
        line("no labels", "error", stage="evaluate"),
        exit_code=65,
    )
    last = text[text.rindex("train ") :].splitlines()
    assert "num_images 3" in last[0]
    assert last[1].startswith("evaluate")
    assert "exit 65" in last[1]
    assert "exit" not in last[0]
