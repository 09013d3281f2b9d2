"""Backbones are all looked at before the first is judged for hours, and none is judged twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clusterfit.artifacts.files import write_json
from clusterfit.artifacts.layout import RunDirectory
from clusterfit.artifacts.manifest import Identity, write_manifest
from clusterfit.artifacts.owner import claim
from clusterfit.config.loading import check_values
from clusterfit.errors import ClusterfitError
from clusterfit.worker.arguments import Assignment
from clusterfit.worker.context import Context
from clusterfit.worker.distenv import DistEnv
from clusterfit.worker.entry.samples import find_samples, fix_samples
from clusterfit.worker.log import Log
from clusterfit.worker.networks.small_resnet import SmallResNet
from clusterfit.worker.stages import evaluate

GOOD = {"label": "good", "from": "random", "model": "resnet8_small"}
OTHER = GOOD | {"label": "other", "model": "squeezenet1_1"}
FILE = {"label": "file", "from": "path", "path": "small.pth", "model": "resnet8_small"}
OURS = {"label": "ours", "from": "run", "stage": "train"}


class _Reached(Exception):  # noqa: N818 - no error
    """The first backbone would be judged now."""


@pytest.fixture
def judge(
    env: DistEnv, log: Log, run_directory: RunDirectory, write_folder: Callable[..., Path]
) -> Callable[..., None]:
    """Run evaluate on a good backbone and another."""
    root = run_directory.storage_root
    data_root = write_folder(
        *(f"{part}/{name}/1.png" for part in ("train", "val") for name in "ab")
    )
    torch.save(SmallResNet(2).state_dict(), root / "small.pth")
    (root / "damaged.pth").write_bytes(np.arange(400, dtype=np.uint8).tobytes())

    def run(last: dict[str, str], protocols: tuple[str, ...], **changes: Any) -> None:
        values = {
            "formatVersion": 1,
            "name": run_directory.name,
            "stages": ["evaluate"],
            "device": "cpu",
            "data": {"val": "val", "loadersPerRank": 0, "maxUnreadableFraction": 0.5},
            "evaluate": {"backbones": [GOOD, last], "protocols": protocols, "cropPixels": 32}
            | {"heads": {"batchSizePerRank": 2}, "layers": [{"layer": "res5avg"}]}
            | changes,
        }
        config = check_values(values).algorithm()
        assignment = Assignment("evaluate", config, data_root, run_directory, "")
        writer = claim(run_directory, "evaluate", "submission")
        try:
            fix_samples(assignment, find_samples(assignment, 1), log, writer.check)
            evaluate.run(Context(assignment, env, log, writer))
        finally:
            writer.release()

    return run


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise where the first backbone would be judged."""

    def reach(_: object) -> None:
        raise _Reached

    monkeypatch.setattr(evaluate._Judgement, "run", reach)


@pytest.mark.usefixtures("reached")
@pytest.mark.parametrize(
    ("last", "protocols", "changes", "fault"),
    [
        (OTHER | {"layer": "res9"}, ("linear",), {}, "evaluate.backbones.1.layer: got res9, which"),
        (FILE | {"model": "resnet18"}, ("knn",), {}, "small.pth"),
        (FILE | {"path": "damaged.pth"}, ("linear",), {}, "damaged.pth"),
        (OTHER, ("linear",), {"cropPixels": 8}, "evaluate.backbones.1.model: squeezenet1_1 at 8"),
        (
            OTHER | {"layer": "features"},
            ("linear", "heads"),
            {"layers": [{"layer": "layer2"}]},
            "evaluate.layers: got layer2, which",
        ),
    ],
)
def test_a_last_backbone_that_is_wrong_ends_the_stage_before_the_first_is_judged(
    judge: Callable[..., None],
    last: dict[str, str],
    protocols: tuple[str, ...],
    changes: dict[str, Any],
    fault: str,
) -> None:
    with pytest.raises(ClusterfitError) as caught:
        judge(last, protocols, **changes)
    assert fault in str(caught.value)


@pytest.mark.usefixtures("reached")
def test_backbones_that_can_be_judged_are_looked_at_in_silence(
    judge: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(_Reached):
        judge(FILE, ("linear", "heads"))
    assert "loaded weights" not in capsys.readouterr().out


def test_a_stopped_stage_goes_on_with_the_backbone_that_it_was_at(
    judge: Callable[..., None],
    run_directory: RunDirectory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A first attempt ends before the second backbone, a second one before the results."""
    (tmp_path / "val" / "a" / "2.png").write_text("no image")
    results = run_directory.results()
    judge(FILE, ("linear", "knn"))
    undisturbed = json.loads(results.read_text(encoding="utf-8"))
    assert not (results.parent / "judged").exists()
    shutil.rmtree(results.parent)

    judged: list[int] = []
    run = evaluate._Judgement.run

    def count(judgement: evaluate._Judgement) -> dict[str, Any]:
        if len(judged) == 1:
            judged.append(-1)
            raise _Reached
        judged.append(judgement._number)
        return run(judgement)

    def end(*_: object) -> None:
        raise _Reached

    monkeypatch.setattr(evaluate._Judgement, "run", count)
    monkeypatch.setattr(evaluate, "write_json", end)
    for _ in range(3):  # before the second backbone; before the results; before them again
        with pytest.raises(_Reached):
            judge(FILE, ("linear", "knn"))
    assert judged == [0, -1, 1]
    capsys.readouterr()
    monkeypatch.setattr(evaluate, "write_json", write_json)
    judge(FILE, ("linear", "knn"))
    assert judged == [0, -1, 1]
    told = capsys.readouterr().out
    assert 'msg="already judged" label=good' in told
    assert 'msg="already judged" label=file' in told
    assert "2.png" in told
    assert json.loads(results.read_text(encoding="utf-8")) == undisturbed
    assert undisturbed["num_val_excluded"] == 1


def test_other_settings_have_backbones_judged_again(
    judge: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[int] = []

    def count(judgement: evaluate._Judgement) -> dict[str, Any]:
        if len(judged) in {1, 3}:
            judged.append(-1)
            raise _Reached
        judged.append(judgement._number)
        return {"label": judgement._backbone.label}

    monkeypatch.setattr(evaluate._Judgement, "run", count)
    for neighbors in (1, 2):
        with pytest.raises(_Reached):
            judge(FILE, ("knn",), neighbors=neighbors)
    judge(FILE | {"label": "renamed"}, ("knn",), neighbors=2)
    assert judged == [0, -1, 0, -1, 1]


@pytest.mark.usefixtures("reached")
def test_a_runs_own_backbone_with_a_wrong_bit_is_not_judged(
    judge: Callable[..., None], run_directory: RunDirectory
) -> None:
    weights = run_directory.backbone("train")
    weights.parent.mkdir(parents=True)
    save_file(SmallResNet(2).state_dict(), weights)
    results = {"model": "resnet8_small"}
    write_manifest(weights.parent, Identity("train", {}, {}), [weights.name], results, {})
    with pytest.raises(_Reached):
        judge(OURS, ("linear",))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ClusterfitError, match=r"model\.safetensors: content differs"):
        judge(OURS, ("linear",))


def test_heads_that_are_finished_know_what_could_not_be_read(
    judge: Callable[..., None], run_directory: RunDirectory, tmp_path: Path
) -> None:
    (tmp_path / "val" / "a" / "1.png").write_text("not an image")
    recipe = {"heads": {"batchSizePerRank": 2, "epochs": 1, "schedule": "cosine"}}
    judge(GOOD | {"label": "same"}, ("heads",), **recipe)
    stage, results = run_directory.stage("evaluate"), run_directory.results()
    written = results.read_text()
    assert json.loads(written)["num_val_excluded"] == 1
    for path in (stage / "manifest.json", results, stage / "excluded.txt"):
        path.unlink()
    shutil.rmtree(results.parent / "judged", ignore_errors=True)  # as a kill may leave it
    judge(GOOD | {"label": "same"}, ("heads",), **recipe)
    assert results.read_text() == written
    assert (stage / "excluded.txt").read_text().startswith("val/a/1.png\t")
