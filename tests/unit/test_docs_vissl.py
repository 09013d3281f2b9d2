"""Every command of docs/vissl.md, in its order, over files like those that it speaks of."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models.resnet import Bottleneck, ResNet

from clusterfit.artifacts.dataset import Samples, write_samples
from clusterfit.artifacts.layout import RunDirectory
from clusterfit.artifacts.manifest import Identity, write_manifest
from clusterfit.cli import main
from clusterfit.interop.vissl_config.conversion import convert

PAGE = Path(__file__).parents[2] / "docs" / "vissl.md"
CONFIGS = Path(__file__).parent / "interop" / "vissl_config" / "configs"
STEP2 = "configs/config/pretrain/clusterfit/clusterfit_resnet_8gpu_imagenet.yaml"

Run = Callable[[str], str]


def find_commands(program: str) -> list[str]:
    text = PAGE.read_text().replace("\\\n", " ")
    lines = re.findall(rf"^ {{4}}({program} .*)$", text, re.MULTILINE)
    return [re.sub(r"\s+#.*$", "", line) for line in lines]


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lay out what a reader of the page has: VISSL's configurations, weights, features, a run."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(CONFIGS, "configs")
    torch.manual_seed(0)
    state = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=4).state_dict()
    trunk = {f"_feature_blocks.{key}": state[key] for key in state if not key.startswith("fc.")}
    model = {"model": {"trunk": trunk, "heads": {}}}
    Path("runs/weights").mkdir(parents=True)
    torch.save({"classy_state_dict": {"base_model": model}}, "runs/weights/rotnet.torch")

    images = tmp_path / "sets" / "train"
    images.mkdir(parents=True)
    for number in range(4):
        (images / f"{number}.png").touch()
    Path("vissl/features").mkdir(parents=True)
    stem = "vissl/features/rank0_chunk0_train_res5"
    np.save(f"{stem}_features.npy", np.eye(4, dtype=np.float32))
    np.save(f"{stem}_inds.npy", np.array([2, 0, 1, 3]))
    Path("k16000.yaml").write_text(
        "formatVersion: 1\nname: k16000\nstages: [cluster]\ndata: {train: train}\n"
        "inputs: {features: vissl-rotnet}\n"
    )

    run = RunDirectory(tmp_path / "runs", "imagenet")
    run.stage("train").mkdir(parents=True)
    save_file(state, run.backbone("train"))
    write_manifest(run.stage("train"), Identity("train", {}, {}), ["model.safetensors"], {}, {})
    samples = Samples(tuple(f"train/{number}.png" for number in range(4)), None, ())
    write_samples(run.data("train"), samples)
    run.assignments("train").parent.mkdir(parents=True)
    np.save(run.assignments("train"), np.arange(4))
    found = {"partitions": {"train": {"data_fingerprint": samples.fingerprint}}}
    write_manifest(
        run.stage("cluster"), Identity("cluster", {}, {}), ["train/assignments.npy"], found, {}
    )
    run.run_file.write_text("{}")
    return tmp_path


def test_every_command_works_as_typed(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`run` and `submit` stop before they start: the file is checked, the objects are rendered."""
    commands = find_commands("clusterfit")
    assert len(commands) == 20
    for command in commands:
        arguments = [
            str(workshop / "sets") if word == "/sets" else word for word in shlex.split(command)[1:]
        ]
        if arguments[0] == "submit":
            arguments.append("--dry-run=client")
        if arguments[0] == "run":
            arguments = ["config", "check", *arguments[2:4]]
        with pytest.raises(SystemExit) as ending:
            main(arguments)
        said = capsys.readouterr()
        assert ending.value.code in {None, 0}, (command, said.err)
    exported = {path.name for path in workshop.iterdir()}
    assert {"clusterfit.torch", "clusterfit.pth", "labels", "linear.yaml", "svm.yaml"} <= exported
    assert (workshop / "runs/vissl-rotnet/extract/res5avg/train/manifest.json").is_file()


def test_the_commands_of_vissl_are_those_that_are_imported() -> None:
    """Each of VISSL's commands on the page has ours with the same file and the same overrides."""
    ours = [shlex.split(command) for command in find_commands("clusterfit import-vissl")]
    theirs = [shlex.split(command)[2:] for command in find_commands("python")]
    assert len(theirs) == len(ours) == 6
    for config, *overrides in theirs:
        name = config.removeprefix("config=")
        assert any(
            command[2] == f"configs/config/{name}.yaml" and set(overrides) <= set(command)
            for command in ours
        ), name


def test_the_table_of_warm_ups_is_what_is_planned(
    workshop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """VISSL's step 2 at each layout, imported and planned, against the paper's rule."""
    rows = re.findall(r"^\| (\d+) x (\d+) x (\d+) \| (\d+) \| ([\d.]+) \| .* \| (.*) \|$",
                      PAGE.read_text(), re.MULTILINE)  # fmt: skip
    assert len(rows) == 5
    for nodes, gpus, batch, total, peak, warmup in rows:
        overrides = [
            "config.DATA.TRAIN.LABEL_PATHS=[step1.npy]",
            f"config.DISTRIBUTED.NUM_NODES={nodes}",
            f"config.DISTRIBUTED.NUM_PROC_PER_NODE={gpus}",
            f"config.DATA.TRAIN.BATCHSIZE_PER_REPLICA={batch}",
        ]
        conversion = convert(workshop / STEP2, overrides, "layout")
        (workshop / "layout.yaml").write_text(conversion.text)
        with pytest.raises(SystemExit):
            main(["plan", "layout.yaml", "--num-samples=1281167", "--output=json"])
        (stage,) = json.loads(capsys.readouterr().out)["stages"]
        pods, work = stage["pods"], {figure["name"]: figure["value"] for figure in stage["work"]}
        assert (pods["count"], pods["processes"]) == (int(nodes), int(gpus))
        assert work["global_batch_size"] == int(total) == int(nodes) * int(gpus) * int(batch)
        assert (
            work["peak_lr"] == pytest.approx(float(peak)) == pytest.approx(0.1 * int(total) / 256)
        )
        steps_per_epoch = 1_281_167 // int(total)
        assert work["num_steps"] == 105 * steps_per_epoch
        assert work["warmup_steps"] == (5 * steps_per_epoch if int(total) > 256 else 0)
        assert bool(work["warmup_steps"]) == (warmup != "none")
