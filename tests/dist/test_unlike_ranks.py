"""Ranks on CPUs of different kinds do the same k-means."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from .door import Process


@pytest.mark.parametrize(
    ("flags", "dtype", "products", "differs"),
    [
        ([("avx512_vnni",), ("avx2",)], "float32", "float32", True),
        pytest.param(
            [("avx2",), ("avx512_vnni",)], "float32", "float32", True, marks=pytest.mark.campaign
        ),
        pytest.param(
            [("avx_vnni",), ("amx_int8",)], "bfloat16", "int8", False, marks=pytest.mark.campaign
        ),
        pytest.param(
            [("avx_vnni", "amx_bf16"), ("bf16",)],
            "bfloat16",
            "bfloat16",
            True,
            marks=pytest.mark.campaign,
        ),
    ],
)
def test_all_ranks_round_or_none_does(
    flags: list[tuple[str, ...]], dtype: str, products: str, differs: bool, tmp_path: Path
) -> None:
    program = [sys.executable, "-m", "tests.dist.unlike_ranks"]
    root = str(Path(__file__).parents[2])
    ranks = [
        Process([*program, str(rank), str(tmp_path / "meeting"), *own], {"PYTHONPATH": root})
        for rank, own in enumerate(flags)
    ]
    endings = [rank.wait(120) for rank in ranks]
    assert [ending.code for ending in endings] == [0, 0], endings
    told = [json.loads(ending.lines[-1]) for ending in endings]
    assert [each[:2] for each in told] == [[dtype, products]] * 2
    assert [("CPUs are different" in each[2]) for each in told] == [differs] * 2
    assert told[0][3] == told[1][3]
