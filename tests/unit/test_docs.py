"""What README.md and docs/ show is true: files load, commands exist, links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.config.loading import load_run_file
from clusterfit.worker.networks.backbone import build_model

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def find_commands(page: Path) -> list[str]:
    """Return the indented command lines of a page, without their comments."""
    lines = re.findall(r"^ {4}((?:clusterfit|make) .*)$", page.read_text(), re.MULTILINE)
    return [line.partition(" #")[0].strip() for line in lines]


def test_the_readme_run_file_loads(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block)
        assert load_run_file([path]).run_file.name == yaml.safe_load(block)["name"]


def test_the_readme_shows_how_to_load_what_comes_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "README.md").read_text()
    [snippet] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    [block] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    shown = yaml.safe_load(block)
    model, num_clusters = shown["train"]["model"], shown["cluster"]["numClusters"]
    built = build_model(model, num_clusters, seed=0, crop_pixels=224, path="train.model")
    run = RunDirectory(tmp_path / "runs", shown["name"])
    run.stage("train").mkdir(parents=True)
    save_file(built.state_dict(), run.backbone("train"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(snippet, names)
    for key, value in built.state_dict().items():
        assert torch.equal(names["model"].state_dict()[key], value)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.name)
def test_every_example_loads(path: Path) -> None:
    base = [ROOT / "examples" / "digits.yaml"] if path.name.startswith("digits-") else []
    load_run_file([*base, path])


def test_the_digits_need_no_other_run() -> None:
    run = load_run_file([ROOT / "examples" / "digits.yaml"]).run_file
    assert [backbone.run for backbone in run.evaluate.backbones] == ["", "", ""]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


def test_every_make_target_that_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"`make ([a-z0-9-]+)`", page.read_text()))
        named |= {c.split()[1] for c in find_commands(page) if c.startswith("make ")}
        assert named <= targets, (page.name, named - targets)


def test_the_readme_first_commands_work_as_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from clusterfit.cli import main

    commands = [c for c in find_commands(ROOT / "README.md") if c.startswith("clusterfit ")]
    assert len(commands) == 10
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    (tmp_path / "flowers" / "train").mkdir(parents=True)  # what its reader has
    init, check, run, render, plan, *on_a_cluster = (shlex.split(line)[1:] for line in commands)
    for arguments in (init, check, plan, render):
        with pytest.raises(SystemExit) as ending:
            main(arguments)
        assert ending.value.code in {None, 0}, capsys.readouterr().err
    assert "kind: PyTorchJob" in capsys.readouterr().out
    assert run == ["run", "pipeline", "-f", init[-1]], "the file that init writes is what is run"
    assert load_run_file([Path(init[-1])]).run_file.name == "flowers", "as the others call the run"
    capsys.readouterr()
    for arguments in on_a_cluster:  # as far as they come without one
        with pytest.raises(SystemExit) as ending:
            main(arguments)
        assert ending.value.code == 69, (arguments, capsys.readouterr().err)
        assert "no cluster" in capsys.readouterr().err
