"""`--set`: JSON over the file, and what to write where it is not JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterfit.config.overrides import parse_override
from clusterfit.config.provenance import Origin
from clusterfit.errors import ConfigError

VALUES = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8")),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text("ab."), below, max_size=3),
    max_leaves=6,
)


@given(VALUES)
def test_any_json_value_is_set_as_it_is(value: Any) -> None:
    node = parse_override(f"data.train={json.dumps(value)}")
    assert node.plain() == {"data": {"train": value}}
    assert node.origin == Origin("--set")


def test_a_dot_inside_a_key_is_escaped_as_in_helm() -> None:
    node = parse_override(r'platform.annotations.example\.com/team="a=b"')
    assert node.plain() == {"platform": {"annotations": {"example.com/team": "a=b"}}}


def test_numbers_are_helms_too() -> None:
    assert parse_override("a=1e3").plain() == {"a": 1000}
    assert isinstance(parse_override("a=1e3").plain()["a"], int)


@pytest.mark.parametrize(
    ("assignment", "fault"),
    [
        (
            "data.train=here",
            "data.train: 'here' is not JSON; text needs quotes of its own: "
            "--set 'data.train=\"here\"'",
        ),
        ("a=True", "a: 'True' is not JSON; text needs quotes of its own: --set 'a=\"True\"'"),
        ("a=", "a: '' is not JSON; text needs quotes of its own: --set 'a=\"\"'"),
        (
            "seed",
            "--set seed: want KEY=JSON with dots between keys, like --set cluster.numClusters=100",
        ),
        (
            "a..b=1",
            "--set a..b=1: want KEY=JSON with dots between keys, "
            "like --set cluster.numClusters=100",
        ),
        (
            "=1",
            "--set =1: want KEY=JSON with dots between keys, like --set cluster.numClusters=100",
        ),
        ("a=null", "a: got nothing (null), want a value; leave it out to keep the default (--set)"),
        (
            "a=[1, null]",
            "a: got nothing (null), want a value; leave it out to keep the default (--set)",
        ),
        ("a=NaN", "a: got nan, want a finite number (--set)"),
        ("a=1e999", "a: got inf, want a finite number (--set)"),
        ('a={"b": 1, "b": 2}', "a: b is given twice; keep one (--set)"),
        (
            "a=9007199254740993",
            "a: got 9007199254740993, want an integer of at most 2^53, because Helm rounds larger "
            "ones; put quotes around it if it is meant as text (--set)",
        ),
        (
            'a="\\ud83d"',
            "a: got '\\ud83d', want whole characters: half of a surrogate pair is none (--set)",
        ),
        (
            'a={"\\ud83d": 1}',
            "a: got '\\ud83d', want whole characters: half of a surrogate pair is none (--set)",
        ),
        (
            "a\nb=1",
            "--set 'a\\nb=1': want KEY=JSON with dots between keys, "
            "like --set cluster.numClusters=100",
        ),
        ("a=x\ny", "a: 'x\\ny' is not JSON; text needs quotes of its own: --set 'a=\"x\\ny\"'"),
        ("a=" + "7" * 5000, "a: got inf, want a finite number (--set)"),
        ("a." * 3000 + "a=1", "a." * 3000 + "a: nested deeper than 50 levels (--set)"),
        ("a=" + "[" * 60 + "]" * 60, "a: nested deeper than 50 levels (--set)"),
        ("a=" + "[" * 100_000, "a: nested too deeply (--set)"),
    ],
)
def test_what_cannot_be_set_is_one_line(assignment: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_override(assignment)
    assert caught.value.faults == (fault,)
