"""Generated files: they say what the tree says, and a stale one is found."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from clusterfit.config.generate import (
    GENERATED_FILES,
    build_values,
    build_values_schema_text,
    main,
)
from clusterfit.config.reader import read_yaml
from clusterfit.config.reference import build_reference
from clusterfit.config.schema import default_values, find_schema, walk_leaves

from .conftest import ReadWithHelm

REPOSITORY = Path(__file__).parents[3]


def test_the_repositorys_files_are_fresh() -> None:
    assert main(["--check", "--root", str(REPOSITORY)]) == 0


def test_a_stale_file_is_shown_with_how_to_mend_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--root", str(tmp_path)]) == 0
    assert main(["--check", "--root", str(tmp_path)]) == 0
    assert capsys.readouterr().err == ""
    for name in GENERATED_FILES:
        file = tmp_path / name
        fresh = file.read_bytes()
        file.write_bytes(fresh.replace(b"a", b"b", 1))
        assert main(["--check", "--root", str(tmp_path)]) == 1
        said = capsys.readouterr().err
        assert f"--- {name} (as it is)" in said
        assert "run `python -m clusterfit.config.generate`" in said
        file.unlink()
        assert main(["--check", "--root", str(tmp_path)]) == 1
        assert capsys.readouterr().err
        file.write_bytes(fresh)


def test_values_are_the_defaults_to_us_and_to_helm(read_with_helm: ReadWithHelm) -> None:
    text = build_values()
    node, faults = read_yaml(text, "values.yaml")
    assert not faults
    assert node is not None
    assert node.plain() == default_values()
    assert read_with_helm(text) == default_values()


def test_every_value_stands_below_its_documentation() -> None:
    lines = [line.strip() for line in build_values().splitlines()]
    text = " ".join(line.removeprefix("# ") for line in lines)
    for leaf in walk_leaves():
        assert leaf.schema["description"] in text, leaf.path
    assert "# name:" in lines
    assert "name:" not in lines


def test_lines_of_values_fit_a_screen() -> None:
    assert max(len(line) for line in build_values().splitlines() if "#" in line) <= 100


def test_the_reference_has_a_row_for_every_setting() -> None:
    page = build_reference()
    sections = dict(re.findall(r"^## (\S+|The top)\n(.*?)(?=^## |\Z)", page, re.M | re.S))
    for leaf in walk_leaves():
        section = sections[".".join(leaf.path[:-1]) or "The top"]
        rows = [line for line in section.splitlines() if line.startswith(f"| `{leaf.path[-1]}` |")]
        assert len(rows) == 1, leaf.path
        cells = rows[0].split(" | ")
        assert cells[3] == ("same" if leaf.is_operational else "new")
        if leaf.has_default:
            assert json.loads(cells[2].strip("`")) == leaf.default
        else:
            assert cells[2] == "must be given"


def test_the_reference_shows_the_keys_of_lists_of_maps() -> None:
    rows = re.findall(r"^\| `backbones\[\]\.(\w+)` \|", build_reference(), re.M)
    schema: dict[str, Any] | None = find_schema(("evaluate", "backbones", 0))
    assert schema is not None
    assert rows == list(schema["properties"])


def test_the_charts_schema_is_one_that_json_reads_back() -> None:
    text = build_values_schema_text()
    assert text.endswith("}\n")
    assert "global" in json.loads(text)["properties"]
