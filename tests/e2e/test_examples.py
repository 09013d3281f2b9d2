"""The digits' example, as it stands in the repository, on a cluster.

What a cluster needs is laid over it in a second file, as its users do.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from clusterfit.artifacts.layout import RunDirectory
from tests.cluster.commands import run
from tests.cluster.paths import CHECKOUT
from tests.e2e.artifacts import check_same_features, check_same_training, check_whole
from tests.e2e.digits import RUN, WORLD_SIZE, describe_threads
from tests.e2e.helm import RUN_CHART, helm
from tests.e2e.product import Product

EXAMPLE = CHECKOUT / "examples/digits.yaml"
STAGES = ("pretext", "extract", "cluster", "train", "evaluate")


@pytest.fixture(scope="module")
def here(images: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The example's run on this computer, the door that needs no cluster."""
    storage = tmp_path_factory.mktemp("example")
    clusterfit = Path(sys.executable).with_name("clusterfit")
    roots = (f"--data-root={images}", f"--storage-root={storage}")
    ranks = f"--nproc-per-node={WORLD_SIZE}"
    command: list[str | Path] = [clusterfit, "run", "pipeline", "-f", EXAMPLE, ranks, *roots]
    run(command, env=describe_threads(), timeout_seconds=900)
    return RunDirectory(storage, RUN)


@pytest.mark.parametrize("door", ["submit", "helm"])
def test_example_runs_to_its_end(product: Product, here: RunDirectory, door: str) -> None:
    files = ("-f", EXAMPLE, "-f", product.write_overlay(cpusPerNode=0.3))
    if door == "submit":
        product.succeed("submit", "pipeline", *files)
    else:
        helm(product, "install", "by-helm", RUN_CHART, *files)
    product.wait_for_success(*STAGES)
    assert [len(product.pods(stage)) for stage in STAGES] == [2, 2, 1, 2, 2]
    ours = product.fetch()
    check_whole(ours)
    check_same_training(ours, here, "pretext")
    check_same_features(ours, here)
    asked = yaml.safe_load(EXAMPLE.read_text())["evaluate"]["backbones"]
    judged = json.loads(ours.results().read_text())["backbones"]
    assert [item["label"] for item in judged] == [item["label"] for item in asked]
