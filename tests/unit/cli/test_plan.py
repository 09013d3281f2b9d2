"""`clusterfit plan` as a user sees it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.artifacts.manifest import Identity, write_manifest

from .conftest import RunCommand

EXAMPLES = Path(__file__).parents[3] / "examples"
IMAGENET = str(EXAMPLES / "imagenet.yaml")
COUNTS = ("--num-samples", "1281167", "--num-val-samples", "50000")


def test_each_stage_is_told_with_reasons(run_command: RunCommand) -> None:
    ending = run_command("plan", IMAGENET, "--gpus", "32", *COUNTS)
    assert (ending.code, ending.err) == (0, "")
    lines = [" ".join(line.split()) for line in ending.out.splitlines()]
    for line in (
        "run imagenet: 1,281,167 images of train, 50,000 images of val",
        "train: 4 pods x 8 processes = 32 ranks; each pod asks for 8 nvidia.com/gpu, 64 CPUs, 256 "
        "GiB of memory",
        "global_batch_size 1024 32 per rank x 32 ranks",
        "num_steps 131355 105 epochs x 1251 steps",
        "peak_lr 0.4 baseLr 0.1 x 1024 / 256",
        "decay_steps 37530, 75060, 112590, 125100 x 0.1 at epochs 30, 60, 90, 100",
        "feature_dim 2048 res5avg of resnet50, avg-pooled",
        "extract/res5avg/train 5.3 GB 1281167 rows of 2048 float16 and an index",
    ):
        assert line in lines, line
    assert lines[-1].startswith("storage in all: 7.")


def test_a_step_and_files_are_named_as_for_submit(run_command: RunCommand) -> None:
    plain = run_command("plan", "step1", "-f", IMAGENET, *COUNTS)
    assert plain.out == run_command("plan", IMAGENET, "step1", *COUNTS).out
    stages = [line.split(":")[0] for line in plain.out.splitlines() if " ranks; " in line]
    assert stages == ["extract", "cluster"]
    assert "\ncluster: 1 pod x 8 processes = 8 ranks; " in plain.out


def test_json_holds_the_same(run_command: RunCommand) -> None:
    ending = run_command("plan", "step2", "-f", IMAGENET, "--gpus=8", *COUNTS, "-o", "json")
    planned = json.loads(ending.out)
    (stage,) = planned["stages"]
    assert stage["pods"]["world_size"] == 8
    work = {figure["name"]: figure["value"] for figure in stage["work"]}
    assert work["num_steps"] == 105 * 5004
    assert work["decay_steps"] == [150120, 300240, 450360, 500400]
    assert planned["storage_bytes"] == sum(figure["value"] for figure in stage["storage"])


def test_images_that_are_here_are_counted(run_command: RunCommand, tmp_path: Path) -> None:
    for number in range(40):
        image = tmp_path / "images" / "train" / str(number % 3) / f"{number}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.touch()
    (tmp_path / "images" / "train" / "notes.txt").touch()
    Path("run.yaml").write_text(
        "formatVersion: 1\nname: r\nstages: [pretext]\ndevice: cpu\nplatform: {gpus: 0}\n"
    )
    told = run_command("plan", "run.yaml", "--data-root", "images").out
    assert told.startswith("run r: 40 images of train\n")
    np.save("images/list.npy", np.array(["a.png"] * 64))
    listed = ("--set", 'data.format="filelist"', "--set", 'data.train="list.npy"')
    told = run_command("plan", "run.yaml", "--data-root", "images", *listed).out
    assert told.startswith("run r: 64 images of train\n")


def read_figures(run_command: RunCommand, *arguments: str) -> dict[str, Any]:
    ending = run_command("plan", *arguments, "-o", "json")
    assert (ending.code, ending.err) == (0, "")
    (stage,) = json.loads(ending.out)["stages"]
    return {figure["name"]: figure["value"] for figure in (*stage["work"], *stage["storage"])}


def test_labels_of_somebody_elses_are_counted_where_they_are_here(
    run_command: RunCommand, tmp_path: Path
) -> None:
    arguments = ("train", IMAGENET, "--gpus=1", "--num-samples=1000", "--num-val-samples=1",
                 "--set", 'inputs.assignments="labels/step1.npy"')  # fmt: skip
    unknown = read_figures(run_command, *arguments)
    assert unknown["train/model.safetensors"] is None
    told = read_figures(run_command, *arguments, "--num-clusters=700")
    (tmp_path / "runs" / "labels").mkdir(parents=True)
    labels = np.arange(1000) % 700
    np.save(tmp_path / "runs/labels/step1.npy", labels)
    assert read_figures(run_command, *arguments) == told
    labels[:104] = -1
    np.save(tmp_path / "runs/labels/step1.npy", labels)
    assert read_figures(run_command, *arguments)["steps_per_epoch"] == 896 // 32
    np.save(tmp_path / "runs/labels/step1.npy", labels[1:])
    ending = run_command("plan", *arguments)
    assert (ending.code, ending.out) == (65, "")
    assert "999 labels for 1000 images. VISSL's cluster step" in ending.err


def test_features_of_another_run_are_measured_where_they_are_here(
    run_command: RunCommand, tmp_path: Path
) -> None:
    arguments = ("cluster", IMAGENET, "--gpus=1", "--num-samples=1000", "--num-val-samples=1",
                 "--set", 'inputs.features="theirs"')  # fmt: skip
    assert read_figures(run_command, *arguments)["dim"] == 2048
    folder = RunDirectory(tmp_path / "runs", "theirs").features("res5avg", "train")
    folder.mkdir(parents=True)
    write_manifest(folder, Identity("extract", {}, {}), [], {"feature_dim": 784}, {})
    assert read_figures(run_command, *arguments)["dim"] == 784


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ((), "no run file is given: -f FILE; `clusterfit init` writes one"),
        (
            (IMAGENET,),
            f"data.train: {EXAMPLES}/imagenet/train is not here; give the number of its images "
            "(--num-samples N), or the folder that paths under data start at (--data-root DIR)",
        ),
        (
            (IMAGENET, "--num-samples", "1000000"),
            f"data.val: {EXAMPLES}/imagenet/val is not here; give the number of its images "
            "(--num-val-samples N), or the folder that paths under data start at (--data-root DIR)",
        ),
        (("step1", "train", IMAGENET, *COUNTS), "got the steps step1, train, want one"),
        (
            (IMAGENET, "--gpus", "12", *COUNTS),
            "platform.gpus: got 12 on nodes of 8, want a multiple; the nearest are 8 and 16 "
            "(--gpus)",
        ),
        (
            ("train", IMAGENET, "--num-samples", "100", "--num-val-samples", "1"),
            "train.batchSizePerRank: got 32 on 32 ranks, a global batch of 1024, but there are "
            "only 100 images; want at most 3",
        ),
    ],
)
def test_a_mistake_is_one_line(
    run_command: RunCommand, arguments: tuple[str, ...], fault: str
) -> None:
    ending = run_command("plan", *arguments)
    assert (ending.code, ending.out, ending.err) == (64, "", f"error: {fault}\n")
