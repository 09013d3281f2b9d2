"""Run files by chance: Helm and we read them alike, and no text ends in anything but our faults."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from clusterfit.config.loading import load_run_file
from clusterfit.config.reader import read_yaml
from clusterfit.config.schema import walk_leaves
from clusterfit.errors import ConfigError
from tests.chance import damage_text, draw_cases, find_own_error

from .conftest import ReadWithHelm, WriteFile

pytestmark = pytest.mark.campaign

_EXAMPLES = Path(__file__).parents[3] / "examples"
TEXTS = [(_EXAMPLES / name).read_text() for name in ("digits.yaml", "imagenet.yaml")] + [
    "base: &b {x: 1, y: [1, two, 3.0]}\nuse:\n  <<: *b\n  z: |\n    text\n     more\n  w: >-\n"
    "    a\n    b\n\nq: 'it''s'\nd: \"a\\tb\\u00e9\"\n? k\n: v\nlist:\n- a\n-  - b\n   - c\n"
    "- {a: b, 'c d': e}\n"
]
PIECES = [
    *":{}[]-#&*!|>'\"%@`,?~ \n\t0123456789ab.\\_+eExon", "\n  ", "- ", ": ", "<<: ", "*b", "&c ",
    "|+\n", "|2\n", ">\n", "? ", "''", "\\x41", "\\N", "\\/", "\\\n", "---\n", "...\n", "\r\n",
    "\r", "\x85", "\u2028", "\ufeff", "\u00a0", "\x7f", "\U0001f600", "\0", "yes", "1e3", "1e999",
    "0x1f", "0b1", "012", "1_0", ".5", ".nan", "null", "!!str ", "! ", "!a ", "%YAML 1.1\n", " #c",
    '"\\ud800"', "9" * 30, "7" * 5000, "[" * 60,
]  # fmt: skip
SCALAR_PIECES = [
    *"0123456789_+-.eExXoObBnNyYtTrRuUsSaAlLfF:~", "0x", "0o", "0b", "1e", ".inf", ".nan", "on",
    "off", "yes", "true", "null", "12:30", "2026-11-24", "7" * 20, "f" * 17,
]  # fmt: skip

HELM_ALONE_REFUSES = (
    "found unknown escape character",  # "\/" in double quotes
    "found a tab character",  # at the front of a block of text
    "did not find expected",  # {a:[1]}, without a space
)
"""What PyYAML reads and Helm does not: `config check` passes, and Helm then says why."""


def _is_same(ours: Any, helms: Any) -> bool:
    if isinstance(ours, dict) and isinstance(helms, dict):
        return ours.keys() == helms.keys() and all(_is_same(ours[key], helms[key]) for key in ours)
    if isinstance(ours, list) and isinstance(helms, list):
        return len(ours) == len(helms) and all(map(_is_same, ours, helms))
    return bool(ours == helms) and isinstance(ours, bool) == isinstance(helms, bool)


def _read(text: str) -> Any:
    """Return what we read, None where we refuse it or where it is no map."""
    try:
        node, faults = read_yaml(text, "run.yaml")
    except ConfigError:
        return None
    return node.plain() if node and not faults and isinstance(node.value, dict) else None


def test_whatever_both_read_means_the_same_to_helm(read_with_helm: ReadWithHelm) -> None:
    num_read = 0
    for label, chance in draw_cases("document", 6000):
        text = damage_text(chance.choice(TEXTS), PIECES, chance)
        ours = _read(text)
        if ours is None:
            continue
        try:
            helms = read_with_helm(text)
        except ValueError as error:  # as Helm's binding calls values that it refuses
            if not any(reason in str(error) for reason in HELM_ALONE_REFUSES):
                raise AssertionError(f"{label}: {text!a}") from error
            continue
        num_read += 1
        assert _is_same(ours, helms), f"{label}: {text!a}"
    assert num_read > 500


def test_scalars_mean_the_same_to_helm(read_with_helm: ReadWithHelm) -> None:
    num_read = 0
    for label, chance in draw_cases("scalar", 400):
        texts = {}
        for number in range(50):
            scalar = "".join(chance.choices(SCALAR_PIECES, k=chance.randint(1, 6)))
            value = f"[{scalar}]" if chance.random() < 0.3 else scalar
            text = f"k{number}: {value}\n"
            if (ours := _read(text)) is not None and ours.keys() == {f"k{number}"}:
                texts[text] = ours
        helms = read_with_helm("".join(texts))
        for text, ours in texts.items():
            for key, value in ours.items():
                assert _is_same(value, helms[key]), f"{label}: {text!a}"
        num_read += len(texts)
    assert num_read > 5000


def test_a_file_ends_in_a_run_file_or_in_faults_that_name_their_place(
    write_file: WriteFile,
) -> None:
    num_loaded = 0
    for label, chance in draw_cases("file", 2000):
        text = damage_text(TEXTS[0], PIECES, chance)
        path = write_file(text.encode())
        error = find_own_error(label, partial(load_run_file, [path]))
        num_loaded += error is None
        if error is not None:
            assert isinstance(error, ConfigError), label
            for fault in error.faults:
                assert "run.yaml" in fault, f"{label}: {fault}"
    assert num_loaded > 20


def test_an_override_is_taken_or_refused_in_lines_that_name_it(write_file: WriteFile) -> None:
    path = write_file(TEXTS[0])
    leaves = list(walk_leaves())
    values = ["null", "[]", "{}", "-1", "1e999", '"\\ud800"', '"a\\u0000b"', "9" * 5000, "[" * 2000]
    for label, chance in draw_cases("override", 2000):
        leaf = chance.choice(leaves)
        value = json.dumps(leaf.default) if leaf.has_default else chance.choice(values)
        override = f"{'.'.join(leaf.path)}={chance.choice([value, chance.choice(values)])}"
        if chance.random() < 0.7:
            override = damage_text(override, [*PIECES, *values, "\udcff", "a." * 100], chance)
        error = find_own_error(label, partial(load_run_file, [path], [override]))
        if error is not None:
            assert isinstance(error, ConfigError), label
            for fault in error.faults:
                assert "--set" in fault or "run.yaml" in fault, f"{label}: {fault}"
