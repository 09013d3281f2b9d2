"""What it is all for: on the digits ClusterFit is above the pretext that it was made from.

CLUSTERFIT_EFFECT_SEEDS=0,1,2 tries these seeds; each takes as long as `make demo`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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


@pytest.mark.parametrize("seed", SEEDS)
def test_clusterfit_is_above_its_pretext_on_both_probes(digits: Path, seed: int) -> None:
    name = f"digits-{seed}"
    command = [
        *(*CLUSTERFIT, "run", "pipeline", f"--file={EXAMPLES / 'digits.yaml'}"),
        *(f'--set=name="{name}"', f"--set=seed={seed}", "--nproc-per-node=2"),
        *(f"--data-root={digits}", f"--storage-root={digits / 'runs'}"),
    ]
    ending = Process(command, {}).wait(600)
    assert ending.code == 0, ending.text
    text = (digits / "runs" / name / "evaluate" / "results.json").read_text(encoding="utf-8")
    results: dict[str, Any] = json.loads(text)
    rows = {row["label"]: row["linear"] | {"knn": row["knn"]} for row in results["backbones"]}
    print(f"CLUSTERFIT_EFFECT_SEEDS={seed}: {rows}")
    for probe in ("10", "all"):  # labels per class
        assert rows["ClusterFit"][probe] > rows["pretext"][probe], rows
    assert rows["pretext"]["all"] > 0.9, "digits are that easy"
