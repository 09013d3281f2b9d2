"""What a scalar means, held against the real Helm; and writing scalars so that all agree."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterfit.config.reader import read_yaml
from clusterfit.config.scalars import (
    LARGEST_EXACT_INTEGER,
    Scalar,
    check_scalar,
    format_scalar,
    resolve_plain,
)

from .conftest import ReadWithHelm

PLAIN_SCALARS: dict[str, Scalar | None] = {
    "y": True, "Y": True, "yes": True, "on": True, "On": True, "TRUE": True, "True": True,
    "n": False, "no": False, "off": False, "OFF": False, "false": False,
    "tRUE": "tRUE", "oN": "oN", "yEs": "yEs", "ja": "ja",
    "~": None, "null": None, "Null": None, "NULL": None, "nULL": "nULL", "none": "none",
    "0": 0, "-0": 0, "+1": 1, "-1": -1, "12": 12, "1_000": 1000, "1__0_": 10, "_1": "_1",
    "0o14": 12, "014": 12, "-014": -12, "08": 8, "0o8": "0o8", "0777": 511, "00": 0,
    "0x1F": 31, "0X1f": 31, "-0x1f": -31, "0x_1": 1, "0x": "0x", "0xg": "0xg",
    "0b11": 3, "0B1": 1, "-0b11": -3, "0b2": "0b2", "0b-1": -1, "0b+1": 1, "-0b-1": "-0b-1",
    "1e-6": 1e-6, "1e3": 1000, "1E5": 100000, "1e+5": 100000, "1e5_0": 1e50, "5e-324": 5e-324,
    "1e21": 1e21, "1e400": "1e400", "1.": 1, "1.0": 1, "-0.0": 0, "0.1e1": 1, "1e": "1e",
    ".5": 0.5, "+.5": 0.5, "-.5": -0.5, ".5_0": 0.5, ".5_": ".5_", "._5": "._5", ".": ".",
    ".e5": ".e5", "1.2.3": "1.2.3", "0x1p-2": "0x1p-2", "1,000": "1,000", "+": "+",
    "12:30": "12:30", "190:20:30": "190:20:30", "2026-11-23": "2026-11-23",
    "2001-12-14t21:59:43.10-05:00": "2001-12-14t21:59:43.10-05:00",
    "=": "=", "<<": "<<", "a b": "a b", "inf": "inf", "nan": "nan",
    "0x1" + "f" * 16: "0x1" + "f" * 16, "0b1" + "0" * 64: "0b1" + "0" * 64,
    "0o" + "7" * 25: "0o" + "7" * 25, "0" + "7" * 25: float("7" * 25), "0" * 400 + "17": 15,
    "9" * 400: "9" * 400, "9" * 5000: "9" * 5000,
    "9007199254740992": 2**53, "-9007199254740992": -(2**53),
}  # fmt: skip


def _read(text: str) -> Scalar | None:
    value = resolve_plain(text)
    return None if value is None else check_scalar(value)


def _is_same(ours: object, helms: object) -> bool:
    """Compare as JSON does: 1 and 1.0 are one number, True and 1 are not."""
    return ours == helms and isinstance(ours, bool) == isinstance(helms, bool)


@pytest.mark.parametrize("text", PLAIN_SCALARS)
def test_plain_scalar_means_what_the_table_says(text: str) -> None:
    value = _read(text)
    assert _is_same(value, PLAIN_SCALARS[text])
    assert isinstance(value, float) == isinstance(PLAIN_SCALARS[text], float)


def test_real_helm_agrees_with_the_table(read_with_helm: ReadWithHelm) -> None:
    text = "".join(f"- {scalar}\n" for scalar in PLAIN_SCALARS)
    values = read_with_helm("scalars:\n" + text)["scalars"]
    for (scalar, expected), helms in zip(PLAIN_SCALARS.items(), values, strict=True):
        assert _is_same(helms, expected), scalar


PIECES = st.sampled_from(
    [*"0123456789_+-.eExXoObBnN:", "0x", "0o", "0b", "1e", ".inf", ".nan", "on", "off", "yes", "~"]
)


@settings(max_examples=300)
@given(st.lists(st.lists(PIECES, min_size=1, max_size=7).map("".join), min_size=30, max_size=30))
def test_real_helm_agrees_on_whatever_looks_like_a_number(
    read_with_helm: ReadWithHelm, scalars: list[str]
) -> None:
    plain = [
        text
        for text in scalars
        if not re.match(r"[-:]$|---|[-+]?\.(inf|nan)$", text) and not text.endswith(":")
    ]
    values = read_with_helm("scalars:\n" + "".join(f"- {text}\n" for text in plain))["scalars"]
    for text, helms in zip(plain, values, strict=True):
        try:
            ours = _read(text)
        except ValueError:
            assert isinstance(helms, int | float), text
            assert abs(helms) >= LARGEST_EXACT_INTEGER, text
        else:
            assert _is_same(ours, helms), text


@pytest.mark.parametrize(
    "value", [math.inf, -math.inf, math.nan, 2**53 + 1, -(2**53) - 1, 10**30, "a\ud83d", "\udfff"]
)
def test_what_helm_cannot_pass_on_is_refused(value: Scalar) -> None:
    with pytest.raises(ValueError, match=r"^got .*, want "):
        check_scalar(value)


SCALARS: st.SearchStrategy[Scalar] = st.one_of(
    st.booleans(),
    st.integers(-LARGEST_EXACT_INTEGER, LARGEST_EXACT_INTEGER),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    st.sampled_from(sorted(PLAIN_SCALARS)),
    st.sampled_from(["yes ", " yes", "a: b", "a #b", "#a", "- a", "[a]", "{a}", "&a", "*a", "!a"]),
    st.sampled_from(["%a", "@a", "`a", "'a'", '"a"', "a\nb", "\ufeff", "\x85", "\u2028", "---"]),
)


@given(SCALARS)
def test_written_scalars_come_back_as_they_were(value: Scalar) -> None:
    for text in (f"key: {format_scalar(value)}\n", f"key: [{format_scalar(value)}]\n"):
        node, faults = read_yaml(text, "run.yaml")
        assert not faults
        assert node is not None
        read: Any = node.plain()["key"]
        assert _is_same(read[0] if isinstance(read, list) else read, value)


@given(st.lists(SCALARS, min_size=1))
def test_other_readers_read_written_scalars_alike(
    read_with_helm: ReadWithHelm, values: list[Scalar]
) -> None:
    text = "values:\n" + "".join(f"- {format_scalar(value)}\n" for value in values)
    by_yaml_1_1 = yaml.safe_load(text)["values"]
    by_helm = read_with_helm(text)["values"]
    for value, other, helms in zip(values, by_yaml_1_1, by_helm, strict=True):
        assert _is_same(other, value)
        assert _is_same(helms, value)
        if not isinstance(value, str):
            assert _is_same(json.loads(format_scalar(value)), value)
