"""`clusterfit import-vissl`: the run file, the account, and what stands in the way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.unit.cli.conftest import RunCommand
from tests.unit.interop.vissl_config.conftest import LABELS, STEP1, STEP2, WEIGHTS


def test_a_run_file_is_written_and_every_kind_of_key_is_listed(
    run_command: RunCommand, tmp_path: Path
) -> None:
    ending = run_command(
        "import-vissl", str(STEP1), "config.MODEL.WEIGHTS_INIT.PARAMS_FILE=/zoo/rotnet.torch",
        "config.CLUSTERFIT.NUM_CLUSTERS=4000", "config.CLUSTERFIT.TYPO=1", "-o", "step1.yaml",
    )  # fmt: skip
    assert (ending.code, ending.err) == (0, "")
    lines = ending.out.splitlines()
    heads = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert heads == [
        "unknown to VISSL:",
        "taken with a change:",
        "VISSL's default, because nothing is given:",
        "taken:",
        "without effect here:",
    ]
    assert any(
        line.split() == ["config.CLUSTERFIT.NUM_CLUSTERS", "cluster.numClusters:", "4000"]
        for line in lines
    )
    assert "wrote step1.yaml: step 1: features and clusters" in lines
    assert "put     /zoo/rotnet.torch  ->  runs/weights/rotnet.torch" in lines
    assert "run     clusterfit run pipeline -f step1.yaml" in lines
    check = run_command("config", "check", "-f", "step1.yaml")
    assert check.out.startswith("ok: run cluster-features-resnet-8gpu")
    text = (tmp_path / "step1.yaml").read_text()
    assert "#   config.CLUSTERFIT.NUM_CLUSTERS=4000\n" in text
    assert "numClusters: 4000                          # config.CLUSTERFIT.NUM_CLUSTERS\n" in text
    assert max(len(line) for line in text.splitlines() if line.lstrip().startswith("#")) <= 100


def test_nothing_is_written_over_unless_asked(run_command: RunCommand, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("mine\n")
    ending = run_command("import-vissl", str(STEP1), WEIGHTS)
    assert (ending.code, ending.out) == (64, "")
    assert "run.yaml: already there; name another file with -o, or add --overwrite" in ending.err
    assert (tmp_path / "run.yaml").read_text() == "mine\n"
    assert run_command("import-vissl", str(STEP1), WEIGHTS, "--overwrite").code == 0
    assert "numClusters: 16000" in (tmp_path / "run.yaml").read_text()


def test_a_refusal_writes_nothing(run_command: RunCommand, tmp_path: Path) -> None:
    ending = run_command("import-vissl", str(STEP2), LABELS, "config.OPTIMIZER.name=adam")
    assert (ending.code, ending.out) == (64, "")
    assert ending.err == (
        'error: config.OPTIMIZER.name: got "adam", want sgd (command line)\n'
    )  # fmt: skip
    assert not list(tmp_path.iterdir())
    assert run_command("import-vissl", "nowhere.yaml").code == 66


def test_a_run_file_on_standard_output_goes_into_a_pipe(run_command: RunCommand) -> None:
    ending = run_command("import-vissl", str(STEP2), LABELS, "--name", "piped", "-o", "-")
    assert "taken with a change:" in ending.err
    show = subprocess.run(
        [sys.executable, "-c", "from clusterfit.cli import main; main()",
         "config", "check", "-f", "-"],
        input=ending.out, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert show.stdout == "ok: run piped, stages train\n", show.stderr


def test_the_data_root_is_told(run_command: RunCommand) -> None:
    ending = run_command(
        "import-vissl", str(STEP1), WEIGHTS, "config.DATA.TRAIN.DATA_PATHS=[/sets/in1k/train]"
    )
    assert "run     clusterfit run pipeline -f run.yaml --data-root /sets/in1k\n" in ending.out
