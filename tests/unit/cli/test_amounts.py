"""Counts and sizes read well at every size."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import clusterfit.cli
from clusterfit.cli.amounts import format_bytes, format_count


@pytest.mark.parametrize(
    ("number", "words", "said"),
    [
        (0, ("file",), "0 files"),
        (1, ("file",), "1 file"),
        (2, ("file",), "2 files"),
        (1, ("process", "processes"), "1 process"),
        (3, ("process", "processes"), "3 processes"),
        (1281167, ("image",), "1,281,167 images"),
    ],
)
def test_one_is_singular_and_thousands_are_set_apart(
    number: int, words: tuple[str, ...], said: str
) -> None:
    assert format_count(number, *words) == said


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (999.6, "1.0 kB"),
        (1000, "1.0 kB"),
        (1540, "1.5 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (5.24e9, "5.2 GB"),
        (2e12, "2.0 TB"),
        (1.2345e15, "1,234.5 TB"),
    ],
)
def test_a_size_has_the_unit_in_which_it_is_below_a_thousand(size: float, said: str) -> None:
    assert format_bytes(size) == said


def test_no_command_counts_by_a_plural_of_its_own() -> None:
    """A number beside a fixed plural says `1 files`, sooner or later."""
    counted = re.compile(
        r"\{[^{}]*\} (files|images|tensors|objects|nodes|artifacts|values|features|rows|GPUs)\b"
    )
    for path in sorted(Path(clusterfit.cli.__file__).parent.glob("*.py")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not counted.search(line), f"{path.name}:{number}: {line.strip()}"
