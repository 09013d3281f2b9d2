"""Verify finds every way in which a file can stop being what it was."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from clusterfit.artifacts.dataset import Samples, write_samples
from clusterfit.artifacts.layout import RunDirectory, list_runs
from clusterfit.artifacts.manifest import FileRecord, Identity, write_manifest
from clusterfit.artifacts.verify import find_faults, list_artifacts
from clusterfit.errors import ClusterfitError, InvalidDataError, RetryableError


@pytest.fixture
def finished_run(run_directory: RunDirectory) -> RunDirectory:
    """Write two artifacts and a listing of images."""
    features = run_directory.features("res5avg", "train")
    clusters = run_directory.stage("cluster")
    for folder, name in ((features, "part-00000"), (clusters, "centroids.npy")):
        folder.mkdir(parents=True)
        (folder / name).write_bytes(b"0123456789")
        write_manifest(folder, Identity("s", {}, {}), [name], {}, {})
    write_samples(run_directory.data("train"), Samples(("a.png", "b.png"), np.array([0, 1]), ()))
    return run_directory


def test_a_whole_run_has_no_faults_and_lists_its_artifacts(finished_run: RunDirectory) -> None:
    assert list(find_faults(finished_run)) == []
    artifacts = list_artifacts(finished_run)
    assert [artifact.name for artifact in artifacts] == ["cluster", "extract/res5avg/train"]
    assert [artifact.size_bytes for artifact in artifacts] == [10, 10]


def test_an_empty_run_has_no_artifacts(run_directory: RunDirectory) -> None:
    assert list_artifacts(run_directory) == []
    assert list(find_faults(run_directory)) == []


def fault_of(run: RunDirectory, path: Path) -> str:
    """Return the only fault, without the path that it names."""
    [fault] = find_faults(run)
    assert fault.startswith(f"{path}: ")
    return fault.removeprefix(f"{path}: ")


def test_corruption_at_the_same_size_is_found(finished_run: RunDirectory) -> None:
    path = finished_run.centroids()
    path.write_bytes(b"0123456780")
    assert fault_of(finished_run, path) == "content differs from the manifest's sha256"


def test_a_truncated_file_is_found_once(finished_run: RunDirectory) -> None:
    path = finished_run.features("res5avg", "train") / "part-00000"
    path.write_bytes(b"0123")
    assert fault_of(finished_run, path) == "4 bytes, the manifest says 10"


def test_a_removed_file_is_found(finished_run: RunDirectory) -> None:
    finished_run.centroids().unlink()
    assert fault_of(finished_run, finished_run.centroids()) == "missing"


def test_a_damaged_manifest_is_a_fault_and_the_others_are_still_read(
    finished_run: RunDirectory,
) -> None:
    (finished_run.stage("cluster") / "manifest.json").write_text("{")
    (finished_run.features("res5avg", "train") / "part-00000").write_bytes(b"")
    faults = list(find_faults(finished_run))
    assert len(faults) == 2
    assert "manifest.json: not valid JSON" in faults[0]
    assert "part-00000: 0 bytes, the manifest says 10" in faults[1]
    with pytest.raises(InvalidDataError):
        list_artifacts(finished_run)


def test_an_edited_order_of_images_is_found(finished_run: RunDirectory) -> None:
    (finished_run.data("train") / "samples.txt").write_text("b.png\na.png\n")
    assert "changed after the run began" in fault_of(finished_run, finished_run.data("train"))


def test_a_file_that_cannot_be_one_is_a_fault(finished_run: RunDirectory) -> None:
    cluster = finished_run.stage("cluster")
    record = FileRecord("centroids.npy/below", 1, "0" * 64)
    write_manifest(cluster, Identity("s", {}, {}), [record], {}, {})
    assert fault_of(finished_run, finished_run.centroids() / "below") == "Not a directory"


@pytest.mark.parametrize(
    "path", ["cluster/manifest.json", "cluster/empty", "data/train/dataset.json"]
)
def test_storage_that_fails_says_nothing_of_what_it_holds(
    finished_run: RunDirectory, lose: Callable[[Path], None], path: str
) -> None:
    """What fails to be read here is 0 bytes long."""
    cluster = finished_run.stage("cluster")
    (cluster / "empty").touch()
    write_manifest(cluster, Identity("s", {}, {}), ["empty"], {}, {})
    lose(finished_run.root / path)
    with pytest.raises(RetryableError, match=f"{path}: Input/output error; the storage is not"):
        list(find_faults(finished_run))


def test_storage_that_does_not_tell_a_size_fails(
    finished_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> os.stat_result:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    monkeypatch.setattr(Path, "stat", fail)
    with pytest.raises(RetryableError, match=r"centroids\.npy: Stale file handle; the storage"):
        list(find_faults(finished_run))


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EIO, RetryableError), (errno.EACCES, InvalidDataError)]
)
@pytest.mark.parametrize("look", [find_faults, list_artifacts])
def test_a_folder_that_cannot_be_listed_is_not_passed_over(
    finished_run: RunDirectory,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    kind: type[ClusterfitError],
    look: Callable[[RunDirectory], Iterable[object]],
) -> None:
    scandir = os.scandir

    def fail(path: str) -> object:
        if path.endswith("/extract"):
            raise OSError(number, os.strerror(number), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(kind, match=f"digits/extract: {os.strerror(number)}"):
        list(look(finished_run))


def test_runs_are_the_folders_that_a_run_has_begun_in(finished_run: RunDirectory) -> None:
    assert list_runs(finished_run.storage_root) == []
    finished_run.run_file.write_text("{}")
    (finished_run.storage_root / "weights").mkdir()
    assert list_runs(finished_run.storage_root) == [finished_run]
    assert list_runs(finished_run.storage_root / "not there") == []
