"""The recipe book at toy scale: the same files, one overlay, real stages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clusterfit.artifacts.manifest import read_manifest

from .door import CLUSTERFIT, Ending, Process

BOOK = Path(__file__).parents[2] / "examples" / "recipes"


class Toys:
    """Recipes that are run at most once, each after those whose networks it reads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._done: dict[str, Ending] = {}

    def run(self, recipe: str, step: str = "pipeline") -> Ending:
        """Run a recipe as its page says."""
        if recipe not in self._done:
            files = (f"--file={BOOK / recipe}.yaml", f"--file={BOOK / 'toy.yaml'}")
            roots = (f"--data-root={self.root}", f"--storage-root={self.root / 'runs'}")
            command = [*CLUSTERFIT, "run", step, *files, *roots, "--nproc-per-node=2"]
            self._done[recipe] = Process(command, {}).wait()
            assert self._done[recipe].code == 0, self._done[recipe].text
        return self._done[recipe]

    def folder(self, recipe: str, stage: str) -> Path:
        return self.root / "runs" / recipe / stage


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Toys:
    root = tmp_path_factory.mktemp("toys")
    subprocess.run([sys.executable, BOOK / "write_toy.py", root], check=True, timeout=120)
    return Toys(root)


@pytest.mark.campaign
def test_clusterfit_from_rotnet(toys: Toys) -> None:
    toys.run("rotnet-imagenet")
    toys.run("clusterfit-rotnet")
    results = read_manifest(toys.folder("clusterfit-rotnet", "train")).results
    assert results["num_classes"] == 20
    assert results["final"]["epoch"] == 4


@pytest.mark.campaign
@pytest.mark.parametrize("recipe", ["clusterfit-checkpoint", "clusterfit-supervised"])
def test_clusterfit_from_a_weights_file(toys: Toys, recipe: str) -> None:
    ending = toys.run(recipe)
    assert 'msg="loaded weights"' in ending.text
    assert read_manifest(toys.folder(recipe, "train")).results["num_classes"] == 20


@pytest.mark.campaign
@pytest.mark.parametrize(
    "recipe", ["linear-imagenet", "linear-places205", "linear-inaturalist18", "svm-voc07"]
)
def test_a_benchmark_of_both_networks(toys: Toys, recipe: str) -> None:
    toys.run("rotnet-imagenet")
    toys.run("clusterfit-rotnet")
    ending = toys.run(recipe)
    assert "on 80 held-out images" in ending.text
    results = json.loads((toys.folder(recipe, "evaluate") / "results.json").read_text())
    assert [row["label"] for row in results["backbones"]] == ["random init", "RotNet", "ClusterFit"]
    protocol, measure, chance = (
        ("svm", "mean_average_precision", 0.5) if recipe == "svm-voc07" else ("heads", "top1", 0.2)
    )
    for row in results["backbones"]:
        assert row[protocol]["conv1"][measure] > chance
