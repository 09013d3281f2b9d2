"""Where the worker's packages are not installed, one line says so; a mistake of ours is none."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.artifacts.manifest import Identity, write_manifest
from clusterfit.cli import config
from clusterfit.cli.packages import WORKER_MODULES

from .conftest import RunCommand

RUN_FILE = "formatVersion: 1\nname: digits\ndevice: cpu\ndata: {train: images}\n"
# A process in which some modules are not installed.
WITHOUT = """
import os, sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in os.environ["WITHOUT"].split(","):
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
from clusterfit.cli import main
main(sys.argv[1:])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run file, its images, a run that has a backbone, and a weights file."""
    (tmp_path / "run.yaml").write_text(RUN_FILE)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").touch()
    save_file({"conv1.weight": torch.ones(2)}, tmp_path / "good.safetensors")
    run = RunDirectory(tmp_path / "runs", "done")
    run.stage("train").mkdir(parents=True)
    backbone = run.backbone("train")
    save_file({"conv1.weight": torch.ones(2)}, backbone)
    write_manifest(run.stage("train"), Identity("train", {}, {}), [backbone.name], {}, {})
    return tmp_path


def call(folder: Path, without: str, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *arguments],
        env=os.environ | {"WITHOUT": without},
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def line(missing: str) -> str:
    return (
        f"error: {missing}: not installed; this needs the worker's packages, which "
        "`pip install 'clusterfit[cpu]'` brings, or 'clusterfit[gpu]'\n"
    )


@pytest.mark.parametrize(("command", "missing"), [
    ("artifacts ls", "numpy"),
    ("artifacts verify done", "numpy"),
    ("artifacts export done", "numpy"),
    ("plan run.yaml", "numpy"),
    ("run extract -f run.yaml", "numpy"),
    ("weights inspect good.safetensors", "safetensors"),
])  # fmt: skip
def test_without_all_of_them_one_line_says_what_to_install(
    folder: Path, command: str, missing: str
) -> None:
    ending = call(folder, ",".join(WORKER_MODULES), *command.split())
    assert ending == (64, "", line(missing))


@pytest.mark.parametrize(("without", "command", "missing"), [
    ("torch,torchvision", "run extract -f run.yaml", "torch, torchvision"),
    ("faiss", "run step1 -f run.yaml", "faiss"),
    ("torch,torchvision", "artifacts export done", "torch"),
    ("torch", "weights inspect good.safetensors", "torch"),
])  # fmt: skip
def test_without_some_of_them_a_command_ends_as_soon(
    folder: Path, without: str, command: str, missing: str
) -> None:
    ending = call(folder, without, *command.split())
    assert ending == (64, "", line(missing))
    assert [path.name for path in (folder / "runs").iterdir()] == ["done"]


def test_what_needs_none_of_them_works_without(folder: Path) -> None:
    without = ",".join(WORKER_MODULES)
    assert call(folder, without, "config", "check", "-f", "run.yaml")[0] == 0
    code, out, err = call(folder, without, "plan", "run.yaml", "--num-samples=100")
    assert (code, err) == (0, "")
    assert out.startswith("run digits: 100 images of train")


@pytest.mark.parametrize("name", ["yaml", "torch.no_such_module", "clusterfit.no_such_module"])
def test_any_other_missing_module_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, run_command: RunCommand, name: str
) -> None:
    def fail(*_: object) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(config, "load", fail)
    with pytest.raises(ModuleNotFoundError, match=name):
        run_command("config", "check")


def test_the_modules_are_those_of_the_extra() -> None:
    pyproject = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    extras = pyproject["project"]["optional-dependencies"]
    packages = {"PIL": "pillow", "sklearn": "scikit-learn", "faiss": "faiss-cpu"}
    wanted = {packages.get(module, module) for module in WORKER_MODULES}
    listed = {entry.partition(">")[0] for entry in (*extras["worker"], *extras["cpu"])}
    assert listed - {"clusterfit[worker]"} == wanted
    assert all(importlib.util.find_spec(module) for module in WORKER_MODULES)
