"""The case `loading`: every side runs, and the table says what the records say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import loading
from benchmarks.loading_table import build_loading


def test_every_side_is_measured_once_a_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "FOLDER", tmp_path)
    for num_rounds in (1, 2):
        loading.measure_loading(num_rounds, tmp_path, num_images=3)
    content = json.loads((tmp_path / "loading.json").read_text(encoding="utf-8"))
    measured = [(r["view"], r["side"], r["round"]) for r in content["records"]]
    expected = [
        (view, side, number)
        for number in (0, 1)
        for view, sides in loading.VIEWS.items()
        for side in sides
    ]
    assert measured == expected
    assert all(record["seconds"] > 0 for record in content["records"])
    assert "| extract: clusterfit |" in build_loading(content)


def test_a_ratio_is_formed_within_a_round() -> None:
    records = [
        {"view": "train", "side": side, "round": number, "seconds": seconds, "foreign_cores": 0.3}
        for side, times in {"clusterfit": (0.002, 0.004), "other": (0.006, 0.008)}.items()
        for number, seconds in enumerate(times)
    ]
    text = build_loading({"records": records, "mean_bytes": 50_000})
    assert "| train: clusterfit | 3.00 (2.00-4.00) | 333 | - |" in text
    assert "| train: other | 7.00 (6.00-8.00) | 143 | 2.50 x (2.00-3.00) |" in text
    assert "50 kB" in text
    assert "0.3 cores" in text
