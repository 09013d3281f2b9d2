"""`clusterfit artifacts export` and `import-features`: VISSL's files out of a run and into one."""

from __future__ import annotations

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
from clusterfit.artifacts.parts import FeatureTable
from tests.unit.cli.conftest import RunCommand

NUM_IMAGES = 11
PATHS = tuple(f"train/{'ab'[n % 2]}/{n:02}.png" for n in (0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9))


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Write a run whose train and cluster stages have finished."""
    directory = RunDirectory(tmp_path / "runs", "digits")
    torch.manual_seed(0)
    network = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=3)
    directory.stage("train").mkdir(parents=True)
    save_file(network.state_dict(), directory.backbone("train"))
    write_manifest(
        directory.stage("train"), Identity("train", {}, {}), ["model.safetensors"], {}, {}
    )
    samples = Samples(PATHS, None, ())
    write_samples(directory.data("train"), samples)
    assignments = np.arange(NUM_IMAGES) % 4
    assignments[5] = -1  # an image that could not be read
    directory.assignments("train").parent.mkdir(parents=True)
    np.save(directory.assignments("train"), assignments)
    partitions = {"train": {"data_fingerprint": samples.fingerprint}}
    write_manifest(
        directory.stage("cluster"), Identity("cluster", {}, {}), ["train/assignments.npy"],
        {"num_clusters": 4, "partitions": partitions}, {},
    )  # fmt: skip
    directory.run_file.write_text("{}")
    return directory


def test_the_network_as_vissl_reads_it(run: RunDirectory, run_command: RunCommand) -> None:
    ending = run_command(
        "artifacts", "export", "digits", "--format", "vissl", "-o", "out/clusterfit.torch"
    )
    assert (ending.code, ending.err) == (0, "")
    assert ending.out == (
        "wrote out/clusterfit.torch: 102 tensors of the backbone and a head of 2\n"
    )  # fmt: skip
    content = torch.load("out/clusterfit.torch", weights_only=True)
    model = content["classy_state_dict"]["base_model"]["model"]
    assert set(model["heads"]) == {"0.clf.0.weight", "0.clf.0.bias"}
    assert "_feature_blocks.layer4.0.conv3.weight" in model["trunk"]
    # And back: what was exported is read again, tensor for tensor.
    inspect = run_command("weights", "inspect", "out/clusterfit.torch")
    assert "VISSL's layout of trunk and heads" in inspect.out


def test_the_network_as_torchvision_reads_it(run: RunDirectory, run_command: RunCommand) -> None:
    assert run_command("artifacts", "export", "digits", "train", "-o", "net.pth").code == 0
    network = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=3)
    network.load_state_dict(torch.load("net.pth", weights_only=True))
    torch.manual_seed(0)
    wanted = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=3)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(network.eval()(images), wanted.eval()(images))


@pytest.mark.parametrize(
    ("arguments", "code", "wanted"),
    [
        (["digits", "--format", "vissl", "-o", "net.onnx"], 64, "ends in .torch or .pth"),
        (["digits", "pretext", "-o", "net.pth"], 66, "pretext has not finished"),
        (["other", "-o", "net.pth"], 66, "no run other"),
        (["digits", "cluster", "--format", "torchvision"], 64, "exported for vissl alone"),
        (["digits", "cluster", "--partition", "val"], 66, "no assignments of val"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported(
    arguments: list[str], code: int, wanted: str, run: RunDirectory, run_command: RunCommand,
    tmp_path: Path,
) -> None:  # fmt: skip
    ending = run_command("artifacts", "export", *arguments)
    assert (ending.code, ending.out) == (code, "")
    assert wanted in ending.err
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ([], "digits-train.pth"),
        (["train", "--format", "vissl"], "digits-train.torch"),
        (["cluster"], "digits-cluster/images.npy"),
    ],
)
def test_an_export_has_a_name_where_none_is_given(
    arguments: list[str], written: str, run: RunDirectory, run_command: RunCommand
) -> None:
    ending = run_command("artifacts", "export", "digits", *arguments)
    assert (ending.code, ending.err) == (0, "")
    assert ending.out.startswith(f"wrote {written}")
    assert Path(written).is_file()


@pytest.mark.parametrize("root", ["", "/sets"])
def test_the_clusters_as_vissl_reads_them(
    root: str, run: RunDirectory, run_command: RunCommand
) -> None:
    options = ["--data-root", root] if root else []
    ending = run_command(
        "artifacts", "export", "digits", "cluster", "--format", "vissl", "-o", "labels", *options
    )
    assert (ending.code, ending.err) == (0, "")
    assert "LABEL_SOURCES: [disk_filelist]  LABEL_PATHS: [labels/labels.npy]" in ending.out
    images = np.load("labels/images.npy", allow_pickle=False)
    labels = np.load("labels/labels.npy", allow_pickle=False)
    kept = [n for n in range(NUM_IMAGES) if n != 5]
    assert images.tolist() == [f"{root}/{PATHS[n]}" if root else PATHS[n] for n in kept]
    assert labels.tolist() == [n % 4 for n in kept]


def test_assignments_of_other_images_are_not_exported(
    run: RunDirectory, run_command: RunCommand
) -> None:
    write_samples(run.data("train"), Samples(PATHS[::-1], None, ()))
    ending = run_command(
        "artifacts", "export", "digits", "cluster", "--format", "vissl", "-o", "labels"
    )
    assert ending.code == 65
    assert "of other images than the run lists" in ending.err


WriteChunks = Callable[..., np.ndarray]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Make empty image files whose folders two people sort differently."""
    for name in ("cat/0", "cat/1", "cat-big/0", "cat-big/1", "dog/0"):
        path = tmp_path / "train" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "run.yaml").write_text(
        "formatVersion: 1\nname: k4\nstages: [cluster]\ninputs: {features: vissl}\n"
        "data: {train: train}\nextract: {rowsPerPart: 2}\ncluster: {numClusters: 2}\n"
    )
    return tmp_path


@pytest.fixture
def write_chunks(tmp_path: Path) -> WriteChunks:
    """Write features as two ranks of VISSL's do: shuffled, padded, float64 if need be."""

    def write(count: int = 5, dtype: type = np.float32, layer: str = "res5") -> np.ndarray:
        folder = tmp_path / "vissl"
        folder.mkdir(exist_ok=True)
        features: np.ndarray = np.random.default_rng(0).normal(size=(count, 3, 1, 1)).astype(dtype)
        order = [*np.random.default_rng(1).permutation(count), 0][: count + count % 2]
        for rank in range(2):
            rows = np.array(order[rank::2])
            stem = f"{folder}/rank{rank}_chunk0_train_{layer}"
            np.save(f"{stem}_features.npy", features[rows])
            np.save(f"{stem}_inds.npy", rows)
            np.save(f"{stem}_targets.npy", rows[:, None])
        return features.reshape(count, 3)

    return write


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_features_come_in_in_the_data_sets_order(
    dtype: type, images: Path, write_chunks: WriteChunks, run_command: RunCommand
) -> None:
    """VISSL's image 2 is cat-big/0, ours is cat/0, because `-` sorts before `/`."""
    theirs = write_chunks(dtype=dtype)
    ending = run_command("artifacts", "import-features", "vissl", "-f", "run.yaml")
    assert (ending.code, ending.err) == (0, "")
    assert ending.out == (
        "train: 5 images x 3 features in the data set's order, 1 row of padding left out: "
        "runs/vissl/extract/res5avg/train\n"
    )
    run = RunDirectory(images / "runs", "vissl")
    assert (run.data("train") / "samples.txt").read_text().split() == [
        "train/cat-big/0.png", "train/cat-big/1.png", "train/cat/0.png", "train/cat/1.png",
        "train/dog/0.png",
    ]  # fmt: skip
    table = FeatureTable(run.features("res5avg", "train"))
    assert (table.num_samples, table.num_rows, table.feature_dim) == (5, 5, 3)
    wanted = theirs[[2, 3, 0, 1, 4]].astype(np.float32)
    np.testing.assert_array_equal(table.read_rows(0, 5), wanted)
    assert not run.owner_file.exists()
    verify = run_command("artifacts", "verify", "vissl")
    assert verify.out.startswith("ok: 3 files of 1 artifact: ")
    again = run_command("artifacts", "import-features", "vissl", "-f", "run.yaml")
    assert again.out == ending.out


@pytest.mark.parametrize(
    ("change", "code", "wanted"),
    [
        ("another data set", 65, "chunks hold images 0 to 6, the data set has 5"),
        ("an older run's rank", 65, "chunks of several runs are mixed"),
        ("a row is missing", 65, "1 of 5 images have no features"),
        ("two layers", 64, "features of res4, res5; choose with --layer"),
        ("no chunks", 66, "which VISSL's extraction writes"),
        ("no name", 64, "inputs.features: missing"),
    ],
)
def test_features_that_do_not_belong_together(
    change: str, code: int, wanted: str, images: Path, write_chunks: WriteChunks,
    run_command: RunCommand,
) -> None:  # fmt: skip
    write_chunks(7 if change == "another data set" else 5)
    folder = images / "vissl"
    options = []
    if change == "an older run's rank":
        for kind in ("features", "inds", "targets"):
            array = np.load(folder / f"rank0_chunk0_train_res5_{kind}.npy")
            np.save(folder / f"rank2_chunk0_train_res5_{kind}.npy", array)
    if change == "a row is missing":
        for rank in range(2):
            path = folder / f"rank{rank}_chunk0_train_res5_inds.npy"
            np.save(path, np.where(np.load(path) == 3, 2, np.load(path)))
    if change == "two layers":
        write_chunks(layer="res4")
    if change == "no chunks":
        for path in folder.iterdir():
            path.unlink()
    if change == "no name":
        options = ["--set", 'inputs.features=""']
    ending = run_command("artifacts", "import-features", "vissl", "-f", "run.yaml", *options)
    assert (ending.code, ending.out) == (code, "")
    (line,) = ending.err.splitlines()
    assert wanted in line
    assert not (images / "runs").exists()


def test_other_features_are_not_written_over(
    images: Path, write_chunks: WriteChunks, run_command: RunCommand
) -> None:
    write_chunks()
    assert run_command("artifacts", "import-features", "vissl", "-f", "run.yaml").code == 0
    write_chunks(dtype=np.float64)
    ending = run_command("artifacts", "import-features", "vissl", "-f", "run.yaml")
    assert ending.code == 65
    assert "the run vissl has other features there" in ending.err


def test_a_list_of_paths_outside_the_data_root(
    images: Path, write_chunks: WriteChunks, run_command: RunCommand
) -> None:
    write_chunks()
    (images / "list.txt").write_text("train/cat/0.png\n../../etc/passwd\n")
    ending = run_command(
        "artifacts", "import-features", "vissl", "-f", "run.yaml",
        "--set", 'data={"format": "filelist", "train": "list.txt"}',
    )  # fmt: skip
    assert ending.code == 65
    assert "'../../etc/passwd' leaves the data root" in ending.err


def test_absolute_paths_below_the_data_root_are_vissls_way(
    images: Path, write_chunks: WriteChunks, run_command: RunCommand
) -> None:
    theirs = write_chunks()
    names = ["cat/0", "cat/1", "cat-big/0", "cat-big/1", "dog/0"]
    np.save(images / "list.npy", np.array([f"{images}/train/{name}.png" for name in names]))
    ending = run_command(
        "artifacts", "import-features", "vissl", "-f", "run.yaml", "--data-root", str(images),
        "--set", 'data={"format": "filelist", "train": "list.npy"}',
    )  # fmt: skip
    assert ending.code == 0, ending.err
    table = FeatureTable(RunDirectory(images / "runs", "vissl").features("res5avg", "train"))
    np.testing.assert_array_equal(table.read_rows(0, 5), theirs)  # a list's order is everybody's


@pytest.mark.parametrize("product", ["train", "cluster"])
def test_what_is_damaged_is_not_exported(
    run: RunDirectory, run_command: RunCommand, product: str
) -> None:
    path = run.backbone("train") if product == "train" else run.assignments("train")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    ending = run_command("artifacts", "export", "digits", product, "--format", "vissl", "-o", "out")
    assert ending.code == 65
    assert f"{path.name}: content differs from the manifest's sha256; delete it" in ending.err
    assert not Path("out").exists()
