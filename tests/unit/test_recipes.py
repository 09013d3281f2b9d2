"""The recipe book at full size: each file loads, renders and is planned as VISSL's recipe says."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from clusterfit.cli import main
from clusterfit.config.loading import load_run_file

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "examples" / "recipes"
PAGE = ROOT / "docs" / "recipes.md"
RECIPES = sorted(path for path in BOOK.glob("*.yaml") if path.name != "toy.yaml")
COUNTS = {  # images of train and val
    "imagenet": (1_281_167, 50_000),
    "places205": (2_448_873, 20_500),
    "inaturalist18": (437_513, 24_426),
    "voc07": (5_011, 4_952),
}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ending:
        main(arguments)
    said = capsys.readouterr()
    assert ending.value.code in {None, 0}, said.err
    return said.out


def plan(capsys: pytest.CaptureFixture[str], path: Path, *options: str) -> dict[str, Any]:
    data_set = load_run_file([path]).run_file.data.train.partition("/")[0]
    train, val = COUNTS[data_set]
    counts = (f"--num-samples={train}", f"--num-val-samples={val}")
    planned: dict[str, Any] = json.loads(
        run(capsys, "plan", str(path), *counts, *options, "-o", "json")
    )
    return planned


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize("gpus", [1, 8, 32])
def test_a_recipe_loads_renders_and_is_planned(
    capsys: pytest.CaptureFixture[str], path: Path, gpus: int
) -> None:
    loaded = load_run_file([path]).run_file
    assert loaded.name == path.stem
    rendered = run(capsys, "render", "pipeline", "-f", str(path), f"--gpus={gpus}", "-o", "table")
    planned = plan(capsys, path, f"--gpus={gpus}")
    for stage in planned["stages"]:
        assert f"{loaded.name}-{stage['stage']}" in rendered
        wanted = min(gpus, 8) if stage["stage"] == "cluster" else gpus
        assert stage["pods"]["count"] * stage["pods"]["gpus"] == wanted
        assert stage["remarks"] == []


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_toy_overlay_fits_each_recipe(path: Path) -> None:
    loaded = load_run_file([path, BOOK / "toy.yaml"]).run_file
    assert loaded.device == "cpu"
    assert loaded.name == path.stem
    small = {loaded.pretext.model, loaded.extract.model, loaded.train.model}
    assert small == {"resnet8_small"}


# VISSL's figures at 8 GPUs: passes, rate per 256 images, steps of each decay.
SCHEDULES = {
    "rotnet-imagenet": (105, 0.1, (30, 60, 90, 100), 5004),
    "clusterfit-rotnet": (105, 0.1, (30, 60, 90, 100), 5004),
    "clusterfit-checkpoint": (105, 0.1, (30, 60, 90, 100), 5004),
    "clusterfit-supervised": (105, 0.1, (30, 60, 90, 100), 5004),
    "linear-imagenet": (28, 0.01, (8, 16, 24), 5004),
    "linear-places205": (14, 0.01, (4, 8, 12), 9565),
    "linear-inaturalist18": (84, 0.01, (24, 48, 72), 1709),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_vissls(capsys: pytest.CaptureFixture[str], name: str) -> None:
    epochs, rate, milestones, steps = SCHEDULES[name]
    planned = plan(capsys, BOOK / f"{name}.yaml", "--gpus=8")
    work = {figure["name"]: figure["value"] for figure in planned["stages"][-1]["work"]}
    assert work["global_batch_size"] == 256
    assert work["base_lr"] == work["peak_lr"] == rate
    assert work["num_steps"] == epochs * steps
    assert work["decay_steps"] == [milestone * steps for milestone in milestones]


def find_commands() -> list[str]:
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(r"^ {4}(clusterfit .*)$", text, re.MULTILINE)


def test_the_page_names_every_recipe() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert {path.stem for path in RECIPES} <= set(re.findall(r"`([a-z0-9-]+)`", text))


@pytest.mark.parametrize("command", find_commands())
def test_commands_of_the_page_work_as_typed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Those for a cluster up to the cluster; toys are run by tests/dist/test_recipes.py."""
    monkeypatch.chdir(ROOT)
    verb, *arguments = shlex.split(command)[1:]
    if verb == "submit":
        run(capsys, verb, *arguments, "--dry-run=client")
    elif verb == "plan":
        run(capsys, verb, *arguments)
    else:
        assert verb == "run"
        files = [Path(word) for word in arguments if word.endswith(".yaml")]
        assert load_run_file(files).run_file.device == "cpu"


def test_the_table_of_layouts_is_what_a_plan_says(capsys: pytest.CaptureFixture[str]) -> None:
    rows = re.findall(r"^\| (\d+) x (\d+) x (\d+) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert len(rows) == 5
    for nodes, processes, batch, cells in rows:
        gpus = int(nodes) * int(processes)
        options = (f"--gpus={gpus}", "--set", f"platform.gpusPerNode={processes}")
        batches = ("--set", f"train.batchSizePerRank={batch}")
        planned = plan(capsys, BOOK / "clusterfit-rotnet.yaml", *options, *batches)
        stage = planned["stages"][-1]
        assert (stage["pods"]["count"], stage["pods"]["processes"]) == (int(nodes), int(processes))
        work = {figure["name"]: figure["value"] for figure in stage["work"]}
        told = (
            work["global_batch_size"], work["peak_lr"], work["warmup_steps"], work["num_steps"],
            ", ".join(map(str, work["decay_steps"])),
        )  # fmt: skip
        assert cells.split(" | ") == [f"{cell:g}" if isinstance(cell, float) else str(cell)
                                      for cell in told]  # fmt: skip
