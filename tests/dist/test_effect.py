"""What it is all for: on the digits ClusterFit is above the pretext that it was made from.

CLUSTERFIT_EFFECT_SEEDS=0,1,2 tries these seeds; each takes as long as `make demo`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from clusterfit.artifacts.layout import PARTITIONS, RunDirectory

from .door import CLUSTERFIT, Process

pytestmark = pytest.mark.campaign

EXAMPLES = Path(__file__).parents[2] / "examples"
SEEDS = [int(seed) for seed in os.environ.get("CLUSTERFIT_EFFECT_SEEDS", "0").split(",")]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with all digits."""
    root = tmp_path_factory.mktemp("effect")
    command = [sys.executable, str(EXAMPLES / "write_digits.py"), str(root / "digits")]
    subprocess.run(command, check=True, timeout=120)
    return root


def run_digits(digits: Path, name: str, seed: int, step: str, nproc: int) -> RunDirectory:
    """Run a step of the digits under a name of its own."""
    command = [
        *(*CLUSTERFIT, "run", step, f"--file={EXAMPLES / 'digits.yaml'}"),
        *(f'--set=name="{name}"', f"--set=seed={seed}", f"--nproc-per-node={nproc}"),
        *(f"--data-root={digits}", f"--storage-root={digits / 'runs'}"),
    ]
    ending = Process(command, {}).wait(600)
    assert ending.code == 0, ending.text
    return RunDirectory(digits / "runs", name)


@pytest.fixture(scope="module", params=SEEDS)
def finished(digits: Path, request: pytest.FixtureRequest) -> RunDirectory:
    """The whole pipeline of the digits, by two processes."""
    return run_digits(digits, f"digits-{request.param}", request.param, "pipeline", nproc=2)


def test_clusterfit_is_above_its_pretext_on_both_probes(finished: RunDirectory) -> None:
    results: dict[str, Any] = json.loads(finished.results().read_text(encoding="utf-8"))
    rows = {row["label"]: row["linear"] | {"knn": row["knn"]} for row in results["backbones"]}
    print(f"{finished.name}: {rows}")
    for probe in ("10", "all"):  # labels per class
        assert rows["ClusterFit"][probe] > rows["pretext"][probe], rows
    assert rows["pretext"]["all"] > 0.9, "digits are that easy"


@pytest.mark.parametrize("nproc", [1, 3])
def test_another_number_of_processes_finds_the_same_clusters(
    digits: Path, finished: RunDirectory, nproc: int
) -> None:
    """From the same weights; clusters may be numbered otherwise."""
    seed = int(finished.name.removeprefix("digits-"))
    other = RunDirectory(finished.storage_root, f"{finished.name}-by-{nproc}")
    for name in ("data", "pretext"):
        shutil.copytree(finished.root / name, other.root / name)
    for stage in ("extract", "cluster"):
        run_digits(digits, other.name, seed, stage, nproc)
    for partition in PARTITIONS:
        ours, theirs = (np.load(run.assignments(partition)) for run in (other, finished))
        together = np.zeros((ours.max() + 1, theirs.max() + 1))
        np.add.at(together, (ours, theirs), 1)
        pairs = linear_sum_assignment(together, maximize=True)
        assert together[pairs].sum() >= 0.99 * len(ours)
