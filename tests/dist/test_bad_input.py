"""What is wrong ends with its code and one line that explains, and leaves nothing half-written."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from clusterfit.artifacts.dataset import read_samples
from clusterfit.artifacts.manifest import read_manifest
from clusterfit.artifacts.part import part_name
from clusterfit.logline import parse_line
from clusterfit.worker.networks.small_resnet import SmallResNet
from tests.unsuitable import give_up

from .conftest import CONFIG, write_images
from .door import Bench, list_files

RANDOM: dict[str, Any] = {
    "stages": ["extract", "cluster", "train"],
    "extract.weights": {"from": "random"},
}
NO_VAL: dict[str, Any] = {"data.val": ""}


@pytest.fixture(scope="module")
def template(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A finished step 1 that `clustered` gives each test a copy of."""
    bench = Bench(images, tmp_path_factory.mktemp("bad-input") / "runs", CONFIG).changed(RANDOM)
    bench.succeed("step1")
    return bench


@pytest.fixture
def clustered(template: Bench, tmp_path: Path) -> Bench:
    bench = template.changed({}, storage_root=tmp_path / "runs")
    shutil.copytree(template.run.root, bench.run.root)
    return bench


def _assert_nothing_finished(bench: Bench) -> None:
    for stage in CONFIG["stages"]:
        assert list_files(bench.run.stage(stage)) == {}
    assert list(bench.run.root.rglob(".*")) == []
    assert not bench.run.owner_file.exists()


# ------------------------------------------------------------------------------------- images


def test_a_missing_data_folder_is_named(bench: Bench, tmp_path: Path) -> None:
    fault = bench.changed({}, data_root=tmp_path).execute("pretext").explain(66)
    assert f"data.train: {tmp_path}/train is not there" in fault
    _assert_nothing_finished(bench)


def test_a_folder_without_images_is_named(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "notes.txt").write_text("no image", encoding="utf-8")
    fault = bench.changed({}, data_root=tmp_path).execute("pretext").explain(66)
    assert f"data.train: no image below {tmp_path}/train" in fault
    _assert_nothing_finished(bench)


def _write_odd_images(folder: Path) -> tuple[set[str], set[str]]:
    """Write images of every kind and return the names of readable and unreadable ones."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 4), np.uint8)
    rgb = Image.fromarray(noise[..., :3])
    rgb.save(folder / "colour.jpg")
    rgb.convert("L").save(folder / "greyscale.jpg")
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    rgb.convert("P").save(folder / "palette.png")
    rgb.resize((1, 1)).save(folder / "one-pixel.png")
    rgb.resize((400, 3)).save(folder / "long.png")
    Image.fromarray(noise).save(folder / "rgba.png")
    Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(folder / "sixteen-bit.png")
    readable = {path.name for path in folder.iterdir()}
    whole = (folder / "colour.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("not an image", encoding="utf-8")
    (folder / "nothing.png").write_bytes(b"")
    return readable, {"truncated.jpg", "text.jpg", "nothing.png"}


def test_odd_images_are_read_and_unreadable_ones_left_out_by_name(
    bench: Bench, tmp_path: Path
) -> None:
    write_images(tmp_path / "train", 0, 30)
    readable, unreadable = _write_odd_images(tmp_path / "train" / "odd")
    bench = bench.changed(
        RANDOM
        | NO_VAL
        | {
            "stages": ["pretext", "extract", "cluster", "train"],
            "pretext.batchSizePerRank": 41,
            "pretext.epochs": 2,
            "extract.rowsPerPart": 3,
            "train.batchSizePerRank": 19,
            "data.maxUnreadableFraction": 3 / 41,
        },
        data_root=tmp_path,
    )
    ending = bench.succeed("pipeline")
    folder = bench.run.features("res5avg", "train")
    excluded = (folder / "excluded.txt").read_text(encoding="utf-8").splitlines()
    reasons = dict(line.split("\t") for line in excluded)
    assert {Path(path).name for path in reasons} == unreadable
    assert all(reasons.values())
    results = read_manifest(folder).results
    assert (results["num_rows"], results["num_excluded"]) == (38, 3)

    paths = read_samples(bench.run.data("train")).paths
    assignments = np.load(bench.run.assignments("train"))
    for path, assignment in zip(paths, assignments.tolist(), strict=True):
        assert (assignment == -1) == (path in reasons)
    assert np.isnan(np.load(bench.run.distances_sq("train"))).sum() == 3
    assert read_manifest(bench.run.stage("train")).results["num_samples"] == 38
    met = [
        fields
        for fields in map(parse_line, ending.lines)
        if fields and "unreadable image" in fields["msg"]
    ]
    assert {fields["stage"] for fields in met} == {"pretext"}  # train never touches one
    named = Counter((fields["rank"], fields["path"]) for fields in met)
    assert {path for _, path in named} == {*reasons}
    assert {*named.values()} == {1}, "told once, not in every epoch"
    assert readable <= {Path(path).name for path in paths}


def test_changed_images_are_refused(clustered: Bench, tmp_path: Path) -> None:
    shutil.copytree(clustered.data_root, tmp_path / "images")
    write_images(tmp_path / "images" / "train", 500, 1)
    fault = clustered.changed({}, data_root=tmp_path / "images").execute("extract").explain(65)
    assert "data.train: 68 images now, 67 when the run began" in fault


def test_identical_images_go_through(bench: Bench, tmp_path: Path) -> None:
    write_images(tmp_path / "train", 0, 1)
    [image] = (tmp_path / "train").rglob("*.png")
    for number in range(19):
        shutil.copy(image, image.with_name(f"copy-{number}.png"))
    changes = {"cluster.numClusters": 4, "train.epochs": 1}
    bench = bench.changed(RANDOM | NO_VAL | changes, data_root=tmp_path)
    said = bench.succeed("pipeline").text
    told = read_manifest(bench.run.stage("cluster")).results["partitions"]["train"]
    assert told["objective"] == pytest.approx(0, abs=1e-4)
    assert sorted(told["sizes"]) == [0, 0, 0, 20]
    assert told["num_empty"] == 3
    assert told["imbalance"] == pytest.approx(4)
    assert 'level=warning stage=cluster rank=0 msg="empty clusters" num_empty=3 ' in said


def test_more_clusters_than_images_are_refused(clustered: Bench) -> None:
    shutil.rmtree(clustered.run.stage("cluster"))
    fault = clustered.changed({"cluster.numClusters": 68}).execute("cluster").explain(65)
    assert "cluster.numClusters: got 68, want at most the 67 images" in fault
    assert not clustered.run.stage("cluster").exists()


# ------------------------------------------------------------------------------------ weights


class _Intruder:
    """Unpickled, it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._trace),)


def _state() -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in SmallResNet(3).state_dict().items()}


def _write_nan(path: Path) -> None:
    state = _state()
    state["conv1.weight"][0] = torch.nan
    save_file(state, path)


def _write_foreign(path: Path) -> None:
    torch.save({f"other.{key}.part": value for key, value in _state().items()}, path)


def _write_intruder(path: Path) -> None:
    path.write_bytes(pickle.dumps({"conv1.weight": _Intruder(path.with_name("was-here"))}))


@pytest.mark.parametrize(
    ("write", "word"),
    [
        pytest.param(_write_intruder, "pickle", id="a pickle that executes code"),
        # Refused at the same place, each by a rule with a test of its own.
        pytest.param(_write_nan, "NaN", id="NaN weights", marks=pytest.mark.campaign),
        pytest.param(
            _write_foreign, "conv1.weight", id="nothing matches", marks=pytest.mark.campaign
        ),
    ],
)
def test_weights_that_cannot_be_used_are_refused(bench: Bench, write: Any, word: str) -> None:
    bench.storage_root.mkdir()
    write(bench.storage_root / "weights.pt")
    bench = bench.changed({"extract.weights": {"from": "path", "path": "weights.pt"}})
    fault = bench.execute("extract").explain(65)
    assert word in fault
    assert not (bench.storage_root / "was-here").exists()
    _assert_nothing_finished(bench)


@pytest.mark.campaign  # the rule has tests of its own, and so has a code that a rank ends with
def test_an_unknown_layer_is_refused_with_the_nearest(bench: Bench) -> None:
    bench = bench.changed(RANDOM | {"extract.layer": "layer33"})
    fault = bench.execute("extract").explain(64)
    assert fault.startswith("extract.layer: got layer33")
    assert "layer3" in fault
    _assert_nothing_finished(bench)


# ------------------------------------------------------------------------------ run directory


def test_a_run_of_other_settings_is_refused_by_key_and_values_unless_overwritten(
    clustered: Bench,
) -> None:
    before = list_files(clustered.run.root)
    changed = clustered.changed({"cluster.numClusters": 5})
    fault = changed.execute("cluster").explain(65)
    assert "cluster.numClusters was 7, now 5" in fault
    assert list_files(clustered.run.root) == before
    told = changed.succeed("cluster", 1, "--overwrite").text
    removed = f"removed={clustered.run.stage('cluster')} "
    assert f'msg="--overwrite removes what is there" {removed}' in told
    assert len(np.load(clustered.run.centroids())) == 5


@pytest.mark.parametrize(
    ("changes", "code", "word"),
    [
        ({"data.train": "elsewhere"}, 66, "data.train: "),
        ({"extract.weights": {"from": "path", "path": "none.pt"}}, 66, "extract.weights.path: "),
        ({"data.format": "filelist"}, 65, "data.format: folder"),
    ],
)
def test_what_could_not_be_made_again_is_not_overwritten(
    clustered: Bench, changes: dict[str, Any], code: int, word: str
) -> None:
    before = list_files(clustered.run.stage("extract"))
    fault = clustered.changed(changes).execute("extract", 1, "--overwrite").explain(code)
    assert word in fault
    assert list_files(clustered.run.stage("extract")) == before
    assert clustered.artifacts("verify").code == 0


def test_features_of_other_settings_are_not_clustered(clustered: Bench) -> None:
    fault = clustered.changed({"extract.normalize": True}).execute("cluster").explain(65)
    assert "extract.normalize was false, now true" in fault


def test_only_a_truncated_part_is_extracted_again(clustered: Bench) -> None:
    folder = clustered.run.features("res5avg", "train")
    before = list_files(folder)
    content = (folder / part_name(2)).read_bytes()
    (folder / part_name(2)).write_bytes(content[:-100])
    verified = clustered.artifacts("verify")
    assert verified.code == 65
    assert (
        f"{folder / part_name(2)}: {len(content) - 100} bytes, the manifest says" in verified.text
    )

    clustered.succeed("extract")
    after = list_files(folder)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {part_name(2), "manifest.json"}
    assert (folder / part_name(2)).read_bytes() == content
    assert clustered.artifacts("verify").code == 0
    assert 'msg="already finished"' in clustered.succeed("cluster").text


@pytest.mark.campaign  # much like the one above
def test_what_else_is_damaged_beside_a_truncated_part_is_not_vouched_for(
    clustered: Bench,
) -> None:
    folder = clustered.run.features("res5avg", "train")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    truncated, flipped = before[part_name(2)][:-100], bytearray(before[part_name(3)])
    flipped[-1] ^= 1
    (folder / part_name(2)).write_bytes(truncated)
    (folder / part_name(3)).write_bytes(flipped)
    ending = clustered.succeed("extract", 2)
    assert f'msg="a part is damaged, extracting it again" path={folder / part_name(3)}' in (
        ending.text
    )
    assert {path.name: path.read_bytes() for path in folder.glob("part-*")} == {
        name: content for name, content in before.items() if name.startswith("part-")
    }
    assert clustered.artifacts("verify").code == 0


def test_a_second_live_writer_is_refused_and_the_first_goes_on(bench: Bench) -> None:
    bench = bench.changed(RANDOM)
    first = bench.start("extract")
    assert first.wait_until(bench.run.owner_file.exists)
    fault = bench.execute("extract").explain(73)
    assert "has been writing it since" in fault
    assert first.wait().code == 0, first.text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KiB; where only root may mount, others skip."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "clusterfit-test", str(folder)]
    if not shutil.which("mount"):
        give_up("a full disk needs a small one: there is no mount command")
    mounted = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if mounted.returncode:
        give_up(f"a full disk needs a small one: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=30)


def test_a_full_disk_ends_the_stage_and_with_space_the_next_run_completes(
    bench: Bench, small_disk: Path
) -> None:
    wide = {"extract.layer": "layer1", "extract.pooling": "none", "extract.rowsPerPart": 67}
    bench = bench.changed(RANDOM | wide, storage_root=small_disk)  # a part of 549 kB
    fault = bench.execute("extract").explain(73)
    assert "part-00000.safetensors: cannot write" in fault
    assert "No space left on device" in fault
    _assert_nothing_finished(bench)

    resize = ["mount", "-o", "remount,size=4m", str(small_disk)]
    subprocess.run(resize, check=True, timeout=30)
    bench.succeed("extract")
    assert bench.artifacts("verify").code == 0
