"""What evaluate found, as a person reads it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from clusterfit.artifacts.files import write_json
from clusterfit.artifacts.layout import RunDirectory
from clusterfit.cli.results import print_results
from clusterfit.config.loading import load_run_file

ROOT = Path(__file__).parents[3]
DEMO = ("digits.yaml", "digits-compared.yaml")


def read_printed(text: str) -> list[list[str]]:
    """Return the cells of the printed lines: columns are two spaces apart."""
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line.strip()]


def print_found(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rows: list[dict[str, Any]],
    num_excluded: int = 0,
) -> list[list[str]]:
    run = RunDirectory(tmp_path, "digits")
    results = {
        "num_train_excluded": num_excluded,
        "num_val": 359,
        "num_val_excluded": num_excluded,
        "backbones": rows,
    }
    write_json(run.results(), results)
    print_results(run)
    return read_printed(capsys.readouterr().out)


def test_the_readme_shows_the_table_that_the_demo_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its headings and rows; the figures are those of the machine that it was printed on."""
    run_file = load_run_file([ROOT / "examples" / name for name in DEMO]).run_file
    amounts = [*map(str, run_file.evaluate.labels_per_class), "all"]
    printed = print_found(
        tmp_path,
        capsys,
        [
            {"label": each.label, "linear": dict.fromkeys(amounts, 0.5), "knn": 0.25}
            for each in run_file.evaluate.backbones
        ],
    )
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [table] = re.findall(r"<!-- table: make demo -->\n(.*?)<!-- end -->", text, re.DOTALL)
    lines = table.splitlines()
    head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    title, shown_head, _, *shown_rows, where = printed
    assert title == ["digits: accuracy on 359 held-out images"]
    assert shown_head == head
    assert [row[0] for row in shown_rows] == [row[0] for row in rows]
    assert shown_rows[0][1:] == ["50.0 %", "50.0 %", "25.0 %"]
    assert where == [f"written to {tmp_path}/digits/evaluate/results.json"]


def test_columns_say_how_many_labels_of_each_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"label": "a", "linear": {"all": 0.9, "1000": 0.8, "5": 0.1}}
    head = print_found(tmp_path, capsys, [row])[1]
    assert head == ["backbone", "linear, 5 a class", "linear, 1,000 a class", "linear, all labels"]


def test_a_label_stands_as_it_was_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = "net [bold] :smile: [/v2]"
    assert print_found(tmp_path, capsys, [{"label": label, "knn": 1.0}])[3] == [label, "100.0 %"]


def test_images_that_were_left_out_do_not_count_and_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    title, *_, left_out, _ = print_found(tmp_path, capsys, [{"label": "a", "knn": 0.5}], 2)
    assert title == ["digits: accuracy on 357 held-out images"]
    assert left_out == [f"4 images could not be read: {tmp_path}/digits/evaluate/excluded.txt"]
