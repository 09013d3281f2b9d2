"""Every machine lists the same images in the same order, and odd ones are refused by name."""

from __future__ import annotations

import errno
import os
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clusterfit.artifacts.dataset import Samples, read_samples
from clusterfit.artifacts.layout import RunDirectory
from clusterfit.artifacts.partition import list_samples
from clusterfit.config.sections.clustering import Cluster
from clusterfit.config.sections.inputs import Data, Inputs
from clusterfit.config.sections.training import Pretext, Train
from clusterfit.config.stages import StageName
from clusterfit.config.tree import Algorithm
from clusterfit.errors import ConfigError, InvalidDataError, MissingInputError, RetryableError
from clusterfit.worker.arguments import Assignment
from clusterfit.worker.entry.samples import find_samples, fix_samples
from clusterfit.worker.limits import count_classes
from clusterfit.worker.log import Log

WriteFolder = Callable[..., Path]

FOLDER = Data(train="train", val="val")
LISTED = Data(format="filelist", train="train.txt")
LABELLED = Data(format="filelist", train="train.txt", train_labels="labels.npy")


def list_train(data: Data, root: Path) -> Samples:
    return list_samples(data, root, "train")


def test_the_order_is_that_of_the_names_whatever_was_created_first(
    write_folder: WriteFolder, tmp_path: Path
) -> None:
    paths = [f"train/{folder}/{number}.png" for folder in "bac" for number in (10, 9, 1)]
    random.Random(3).shuffle(paths)
    write_folder(*paths)
    assert list_train(FOLDER, tmp_path).paths == tuple(sorted(paths))


def test_labels_are_the_first_folders_in_order(write_folder: WriteFolder, tmp_path: Path) -> None:
    write_folder("train/dog/a.png", "train/cat/deep/er/b.png", "train/cat/a.jpg", "train/ape/x.gif")
    samples = list_train(FOLDER, tmp_path)
    assert samples.class_names == ("ape", "cat", "dog")
    assert samples.paths == (
        "train/ape/x.gif",
        "train/cat/a.jpg",
        "train/cat/deep/er/b.png",
        "train/dog/a.png",
    )
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 1, 1, 2]
    assert samples.labels.dtype == np.int64


def test_vals_folders_get_the_numbers_of_trains(write_folder: WriteFolder, tmp_path: Path) -> None:
    write_folder("train/ape/a.png", "train/dog/a.png", "val/dog/b.png")
    names = list_train(FOLDER, tmp_path).class_names
    samples = list_samples(FOLDER, tmp_path, "val", names)
    assert samples.labels is not None
    assert samples.labels.tolist() == [1]
    assert samples.class_names == names


def test_classes_that_only_val_has_get_the_numbers_after_trains(
    write_folder: WriteFolder, tmp_path: Path
) -> None:
    write_folder("train/bee/a.png", "val/ape/b.png", "val/bee/b.png", "val/cat/b.png")
    samples = list_samples(FOLDER, tmp_path, "val", list_train(FOLDER, tmp_path).class_names)
    assert samples.labels is not None
    assert samples.labels.tolist() == [1, 0, 2]
    assert samples.class_names == ("bee", "ape", "cat")


def test_images_beside_folders_make_a_tree_without_labels(
    write_folder: WriteFolder, tmp_path: Path
) -> None:
    write_folder("train/a.png", "train/cat/b.png")
    samples = list_train(FOLDER, tmp_path)
    assert samples.paths == ("train/a.png", "train/cat/b.png")
    assert samples.labels is None
    assert samples.class_names == ()


def test_hidden_and_other_files_are_left_out_and_suffixes_may_shout(
    write_folder: WriteFolder, tmp_path: Path
) -> None:
    write_folder("train/a/A.PNG", "train/a/b.Jpeg", "train/a/c.webp", "train/a/d.bmp")
    write_folder("train/a/.d.png", "train/.e/f.png", "train/a/notes.txt", "train/a/png")
    assert list_train(FOLDER, tmp_path).paths == (
        "train/a/A.PNG",
        "train/a/b.Jpeg",
        "train/a/c.webp",
        "train/a/d.bmp",
    )


def test_linked_folders_are_followed(write_folder: WriteFolder, tmp_path: Path) -> None:
    write_folder("elsewhere/a.png")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "cat").symlink_to(tmp_path / "elsewhere")
    assert list_train(FOLDER, tmp_path).paths == ("train/cat/a.png",)


def test_the_data_root_itself_may_be_the_partition(
    write_folder: WriteFolder, tmp_path: Path
) -> None:
    write_folder("cat/a.png", "dog/a.png")
    assert list_train(Data(train=""), tmp_path).paths == ("cat/a.png", "dog/a.png")


def test_a_missing_and_an_empty_folder_say_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(
        MissingInputError, match=r"^data\.train: .*/train is not there; paths under data"
    ):
        list_train(FOLDER, tmp_path)
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("")
    with pytest.raises(MissingInputError, match=r"no image below .*named \.bmp, \.gif, \.jpeg"):
        list_train(FOLDER, tmp_path)


@pytest.mark.parametrize(
    "name", ["a\nb.png", "a\rb.png", "a\tb.png", b"\xff.png".decode(errors="surrogateescape")]
)
def test_a_name_that_cannot_stand_in_a_line_is_refused(
    write_folder: WriteFolder, tmp_path: Path, name: str
) -> None:
    write_folder("train/cat/a.png", f"train/cat/{name}")
    with pytest.raises(InvalidDataError, match=r"data\.train: a file name"):
        list_train(FOLDER, tmp_path)


@pytest.mark.parametrize("name", ["Grüße 世界.png", "Shot at 1.00.00\u202fPM.png", "a\u2028b.png"])
def test_any_other_name_is_taken(write_folder: WriteFolder, tmp_path: Path, name: str) -> None:
    """macOS, for one, puts U+202F into the name of every screenshot."""
    write_folder(f"train/cat/{name}")
    assert list_train(FOLDER, tmp_path).paths == (f"train/cat/{name}",)


def test_a_file_list_keeps_its_own_order(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("b/2.png\n\n  a/1.png \r\nc 3\u202fPM.jpg")
    samples = list_train(LISTED, tmp_path)
    assert samples.paths == ("b/2.png", "a/1.png", "c 3\u202fPM.jpg")
    assert samples.labels is None


def test_a_file_list_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a.png\n", encoding="utf-8-sig")
    assert list_train(LISTED, tmp_path).paths == ("a.png",)


@pytest.mark.parametrize("kind", ["U", "S"])
def test_a_file_list_may_be_an_array_of_text(tmp_path: Path, kind: str) -> None:
    names = np.array(["b.png", "ä/1.png"])
    np.save(tmp_path / "train.npy", np.char.encode(names, "utf-8") if kind == "S" else names)
    data = Data(format="filelist", train="train.npy")
    assert list_train(data, tmp_path).paths == ("b.png", "ä/1.png")


@pytest.mark.parametrize(
    "array",
    [
        np.arange(3),
        np.array([["a.png"]]),
        np.array(["a.png", ""]),
        np.array([b"\xff.png"]),
        np.array(["a\nb.png"]),
        np.array(["../a.png"]),
        np.array([0x110000, 0], np.uint32).view("U2"),
    ],
)
def test_an_array_that_lists_no_paths_is_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "train.npy", array)
    with pytest.raises(InvalidDataError, match=r"train\.npy: "):
        list_train(Data(format="filelist", train="train.npy"), tmp_path)


@pytest.mark.parametrize("suffix", [".txt", ".npy"])
@pytest.mark.parametrize("root", ["real", "link", "folder/back/link"])
def test_a_file_list_may_call_the_data_root_by_any_of_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str, suffix: str
) -> None:
    """The local door hands on the real name; a plan takes what it was given."""
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "back").symlink_to("..")
    names = [
        f"{tmp_path}/{name}" for name in ("real", "link", "folder/../real", "folder/back/link")
    ]
    listed = [f"{name}/train/{number}.png" for number, name in enumerate(names * 2)]
    listed += ["train/8.png"]
    if suffix == ".npy":
        np.save(real / "train.npy", np.array(listed))
    else:
        (real / "train.txt").write_text("\n".join(listed))
    data = Data(format="filelist", train=f"train{suffix}")
    wanted = tuple(f"train/{number}.png" for number in range(9))
    monkeypatch.chdir(tmp_path)
    for data_root in (tmp_path / root, Path(root)):
        assert list_train(data, data_root).paths == wanted
    monkeypatch.chdir(tmp_path / root)
    assert list_train(data, Path()).paths == wanted


def test_beside_the_data_root_a_link_is_no_way_in(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real2").mkdir()
    (tmp_path / "link").symlink_to("real2")
    for path in ("real2/a.png", "link/a.png", "real/../link/a.png", "link/../real2/a.png"):
        (tmp_path / "real" / "train.txt").write_text(f"{tmp_path}/{path}\n")
        with pytest.raises(InvalidDataError, match="leaves the data root"):
            list_train(LISTED, tmp_path / "real")


def test_storage_that_fails_while_the_data_root_is_looked_for_is_worth_another_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bool:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    (tmp_path / "train.txt").write_text("/link/a.png\n")
    monkeypatch.setattr(Path, "samefile", fail)
    with pytest.raises(RetryableError, match="/: Stale file handle; the storage is not available"):
        list_train(LISTED, tmp_path)


@pytest.mark.parametrize("path", ["../a.png", "a/../../b.png", "/etc/a.png", "a/.."])
def test_paths_that_leave_the_data_root_are_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "train.txt").write_text(f"a.png\n{path}\n")
    with pytest.raises(InvalidDataError, match="leaves the data root"):
        list_train(LISTED, tmp_path)


def test_missing_empty_and_binary_lists_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"^data\.train: .*/train\.txt is not there; paths"):
        list_train(LISTED, tmp_path)
    (tmp_path / "train.txt").write_text("\n \n")
    with pytest.raises(MissingInputError, match="lists no image"):
        list_train(LISTED, tmp_path)
    (tmp_path / "train.txt").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(InvalidDataError, match="not UTF-8 text"):
        list_train(LISTED, tmp_path)


def test_a_file_where_a_folder_is_wanted_and_the_reverse_name_the_format(
    write_folder: WriteFolder, tmp_path: Path
) -> None:
    write_folder("train.txt", "train/a.png")
    fault = r"^data\.train: .*/train\.txt is a file, .* read with data\.format: filelist$"
    with pytest.raises(InvalidDataError, match=fault):
        list_train(Data(train="train.txt"), tmp_path)
    fault = r"^data\.train: .*/train is a folder, want a text file .* data\.format: folder$"
    for name in ("train", "train.npy"):
        (tmp_path / "train").rename(tmp_path / name)
        with pytest.raises(InvalidDataError, match=fault.replace("/train is", f"/{name} is")):
            list_train(Data(format="filelist", train=name), tmp_path)
        (tmp_path / name).rename(tmp_path / "train")


def test_labels_of_a_list_come_from_an_array(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a.png\nb.png\n")
    np.save(tmp_path / "labels.npy", np.array([3, 0], np.uint8))
    samples = list_train(LABELLED, tmp_path)
    assert samples.labels is not None
    assert samples.labels.tolist() == [3, 0]
    assert samples.labels.dtype == np.int64


def test_an_image_may_show_several_classes(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a.png\nb.png\n")
    np.save(tmp_path / "labels.npy", np.array([[1, 0, -1], [1, 1, 0]], np.int8))
    samples = list_train(LABELLED, tmp_path)
    assert samples.labels is not None
    assert samples.labels.tolist() == [[1, 0, -1], [1, 1, 0]]


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        (np.array([1]), "1 labels for the 2 paths"),
        (np.array([1, 2, 3]), "3 labels for the 2 paths"),
        (np.array([1.0, 2.0]), "got float64 .*, want integers: one per path, or"),
        (np.zeros((2, 2, 2), int), "want integers: one per path, or"),
        (np.array([[1, 0]]), "1 labels for the 2 paths"),
        (np.array([[1, 0], [2, 0]]), "must be 1 .shown., 0 .not. or -1 .difficult., got 0 to 2"),
        (np.array([0, -1]), "labels must be >= 0, got -1"),
        (np.array([0, 2**64 - 1], np.uint64), "labels must be >= 0, got -1"),
        (np.zeros((2, 0), int), "want integers: one per path, or"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, labels: np.ndarray, fault: str) -> None:
    (tmp_path / "train.txt").write_text("a.png\nb.png\n")
    np.save(tmp_path / "labels.npy", labels)
    with pytest.raises(InvalidDataError, match=rf"labels\.npy: .*{fault}"):
        list_train(LABELLED, tmp_path)


def test_labels_that_are_not_there_are_missing(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a.png\n")
    with pytest.raises(MissingInputError, match=r"^data\.trainLabels: .*/labels\.npy is not there"):
        list_train(LABELLED, tmp_path)
    (tmp_path / "labels.npy").mkdir()
    with pytest.raises(InvalidDataError, match=r"/labels\.npy: a folder, want a \.npy file$"):
        list_train(LABELLED, tmp_path)


@pytest.fixture
def assignment(write_folder: WriteFolder, run_directory: RunDirectory) -> Assignment:
    """A run over three train images and one of val."""
    root = write_folder("train/a/1.png", "train/a/2.png", "train/b/1.png", "val/a/1.png")
    config = Algorithm(
        format_version=1,
        name="digits",
        stages=("pretext",),
        data=FOLDER,
        pretext=Pretext(batch_size_per_rank=1),
        train=Train(batch_size_per_rank=1),
    )
    return Assignment("pretext", config, root, run_directory, "")


def fix(assignment: Assignment, log: Log) -> None:
    fix_samples(assignment, find_samples(assignment, world_size=2), log, guard=lambda: None)


def test_the_order_is_fixed_once_and_each_partition_is_told(
    assignment: Assignment, log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    fix(assignment, log)
    fix(assignment, log)
    told = [line for line in capsys.readouterr().out.splitlines() if "listed images" in line]
    assert len(told) == 2
    assert "partition=train num_samples=3 labels=yes" in told[0]
    assert "partition=val num_samples=1 labels=yes" in told[1]
    samples = read_samples(assignment.run.data("train"))
    assert samples.paths == ("train/a/1.png", "train/a/2.png", "train/b/1.png")


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (
        lambda root: (root / "train/a/2.png").unlink(),
        "data.train: 2 images now, 3 when the run began; restore the images, ",
    ),
    "new": (
        lambda root: (root / "val/a/2.png").write_bytes(b""),
        "data.val: 2 images now, 1 when the run began; ",
    ),
    "renamed": (
        lambda root: (root / "train/a/2.png").rename(root / "train/a/3.png"),
        "data.train: train/a/3.png now stands where train/a/2.png stood when the run began; ",
    ),
    "moved to another class": (
        lambda root: (root / "train/b/1.png").rename(root / "train/a/3.png"),
        "data.train: train/a/3.png now stands where train/b/1.png stood when the run began; ",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_images_that_changed_since_the_run_began_are_named(
    assignment: Assignment, log: Log, change: str
) -> None:
    fix(assignment, log)
    make_change, fault = CHANGES[change]
    make_change(assignment.data_root)
    with pytest.raises(InvalidDataError) as caught:
        fix(assignment, log)
    assert str(caught.value).startswith(fault)


def test_labels_that_changed_since_the_run_began_are_named(
    assignment: Assignment, log: Log
) -> None:
    root = assignment.data_root
    (root / "train.txt").write_text("train/a/1.png\ntrain/b/1.png\n")
    np.save(root / "labels.npy", np.array([0, 1]))
    config = assignment.config.model_copy(update={"data": LABELLED})
    listed = replace(assignment, config=config)
    fix(listed, log)
    np.save(root / "labels.npy", np.array([0, 2]))
    with pytest.raises(InvalidDataError, match="the labels are not those that the run began with"):
        fix(listed, log)


def test_links_are_followed_but_not_in_circles(write_folder: WriteFolder, tmp_path: Path) -> None:
    write_folder("train/a/1.png", "elsewhere/2.png")
    (tmp_path / "train" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "train" / "c").symlink_to(tmp_path / "elsewhere")
    assert list_train(FOLDER, tmp_path).paths == ("train/a/1.png", "train/b/2.png", "train/c/2.png")

    circle = tmp_path / "train" / "a" / "again"
    circle.symlink_to(tmp_path / "train")
    with pytest.raises(InvalidDataError, match=f"^data.train: {circle} is a link back to a folder"):
        list_train(FOLDER, tmp_path)


def test_a_link_to_itself_is_named(write_folder: WriteFolder, tmp_path: Path) -> None:
    write_folder("train/a/1.png")
    knot = tmp_path / "train" / "knot"
    knot.symlink_to(knot)
    with pytest.raises(
        MissingInputError, match=f"^data.train: cannot list {knot}: Too many levels"
    ):
        list_train(FOLDER, tmp_path)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EACCES, MissingInputError),
        (errno.ESTALE, RetryableError),
        (errno.EIO, RetryableError),
    ],
)
def test_a_folder_that_cannot_be_listed_is_named(
    write_folder: WriteFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    kind: type[Exception],
) -> None:
    """Root may read everything and no server can be lost here: the answer is put in its mouth."""
    write_folder("train/a/1.png")
    folder, scandir = str(tmp_path / "train" / "a"), os.scandir

    def refuse(path: str) -> object:
        if path == folder:
            raise OSError(number, os.strerror(number), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(kind, match=f"^data.train: cannot list {folder}: {os.strerror(number)}"):
        list_train(FOLDER, tmp_path)


def test_more_clusters_than_images_are_refused_before_anything_is_done(
    assignment: Assignment, log: Log
) -> None:
    def ask(**changes: object) -> Assignment:
        return replace(assignment, config=assignment.config.model_copy(update=changes))

    clusters = Cluster(num_clusters=4)
    with pytest.raises(InvalidDataError, match="numClusters: got 4, want at most the 3 images"):
        fix(ask(stages=("pretext", "cluster"), cluster=clusters), log)
    assert not assignment.run.data("train").exists()
    # Others' features are of others' images, and a stage alone does not look ahead.
    fix(ask(stages=("cluster",), cluster=clusters, inputs=Inputs(features="other")), log)
    fix(ask(stages=("pretext",), cluster=clusters), log)


def test_images_that_do_not_fill_a_batch_are_refused_before_anything_is_done(
    assignment: Assignment, log: Log
) -> None:
    def ask(**changes: object) -> Assignment:
        return replace(assignment, config=assignment.config.model_copy(update=changes))

    pretext, two, four = (
        Pretext(batch_size_per_rank=2),
        Train(batch_size_per_rank=2),
        Train(batch_size_per_rank=4),
    )
    with pytest.raises(ConfigError, match=r"pretext\.batch.*: got 2 on 2 ranks, .* 3 images"):
        fix(ask(pretext=pretext), log)
    with pytest.raises(ConfigError, match=r"train\.batch.*: got 4 on 1 rank, .* 3 images"):
        fix(ask(stages=("pretext", "train"), train=four), log)
    assert not assignment.run.data("train").exists()
    fix(ask(stages=("pretext", "train"), train=two), log)  # train may have one process
    fix(ask(train=four), log)


def test_labels_that_evaluate_cannot_use_are_refused_before_anything_is_done(
    assignment: Assignment, write_folder: WriteFolder, log: Log
) -> None:
    write_folder("train/beside-the-folders.png")

    def ask(*stages: StageName) -> Assignment:
        return replace(assignment, config=assignment.config.model_copy(update={"stages": stages}))

    fault = r"^evaluate needs labels: train/beside-the-folders\.png lies in no class folder; put "
    with pytest.raises(InvalidDataError, match=fault):
        fix(ask("pretext", "evaluate"), log)
    assert not assignment.run.data("train").exists()
    fix(ask("pretext"), log)


def test_class_folders_that_train_does_not_have_concern_evaluate_alone(
    assignment: Assignment, write_folder: WriteFolder, log: Log
) -> None:
    write_folder(*(f"val/c{number}/1.png" for number in range(7)))

    def ask(*stages: StageName) -> Assignment:
        return replace(assignment, config=assignment.config.model_copy(update={"stages": stages}))

    with pytest.raises(InvalidDataError) as caught:
        fix(ask("extract", "evaluate"), log)
    assert str(caught.value) == (
        "data.val: evaluate knows no class c0, c1, c2, c3, c4 and 2 more, because data.train has "
        "only the class folders a, b; rename or remove the others"
    )
    fix(ask("extract", "train"), log)
    assert len(read_samples(assignment.run.data("val")).paths) == 8


ONE_EACH = np.array([0, 1, 2])
IDS = np.array([0, 15_000_000])
SEVERAL = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])


@pytest.mark.parametrize(
    ("protocols", "train", "val", "found"),
    [
        (("linear",), ONE_EACH, np.array([0, 4]), 5),
        (("svm",), SEVERAL, SEVERAL[:1], 2),
        (("linear", "svm"), SEVERAL, SEVERAL, "evaluate.protocols: linear needs one label per"),
        (("svm",), SEVERAL, ONE_EACH, "data.valLabels: "),
        (("linear",), np.array([0, 21_999]), ONE_EACH, 22_000),  # a part of ImageNet-22k
        (("linear",), np.arange(20_000), np.arange(19_000, 24_000), 24_000),  # val has others
        (("svm",), ONE_EACH, IDS, "data.valLabels: got class number 15000000, with 3 train and 2"),
        (("svm", "knn"), IDS, ONE_EACH, "data.trainLabels: got class number 15000000, with 2"),
        (("knn",), None, ONE_EACH, "evaluate needs labels: give data.trainLabels, a .npy of"),
        (("knn",), ONE_EACH, None, "evaluate needs labels: give data.valLabels, a .npy of"),
    ],
)
def test_what_labels_are_good_for(
    protocols: tuple[str, ...],
    train: np.ndarray | None,
    val: np.ndarray | None,
    found: int | str,
) -> None:
    config = Algorithm.model_validate(
        {
            "formatVersion": 1,
            "name": "digits",
            "data": LISTED,
            "evaluate": {"protocols": protocols, "svm": {"folds": 2}},
        }
    )
    samples = [Samples(("x",) * 3, labels, ()) for labels in (train, val)]
    if isinstance(found, int):
        assert count_classes(config, *samples) == found
        return
    with pytest.raises(InvalidDataError, match=f"^{re.escape(found)}"):
        count_classes(config, *samples)
