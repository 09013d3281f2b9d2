"""Storage that fails is neither a missing nor a damaged file: what it holds may be good."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clusterfit.artifacts.dataset import Samples, read_samples, write_samples
from clusterfit.artifacts.files import read_array, read_json, write_array, write_json
from clusterfit.artifacts.listing import read_path_list
from clusterfit.artifacts.outage import is_outage
from clusterfit.artifacts.part import check_part, part_name, read_part_header
from clusterfit.artifacts.parts import FeatureTable
from clusterfit.errors import RetryableError

WritePartition = Callable[[list[np.ndarray], list[np.ndarray]], Path]
Lose = Callable[[Path], None]


@pytest.fixture
def part(write_partition: WritePartition) -> Path:
    """The only part of a partition."""
    folder = write_partition([np.ones((2, 3), np.float32)], [np.arange(2)])
    return folder / part_name(0)


@pytest.mark.parametrize(
    ("number", "is_of_the_storage"),
    [
        (errno.EIO, True),
        (errno.ESTALE, True),
        (errno.ETIMEDOUT, True),
        (errno.ENOTCONN, True),
        (errno.EMFILE, True),
        (errno.ENOENT, False),
        (errno.EISDIR, False),
        (errno.EEXIST, False),
        (errno.EACCES, False),
        (errno.ENOSPC, False),
        (errno.EDQUOT, False),
        (errno.EFBIG, False),
        (errno.EROFS, False),
        (errno.ENOSYS, False),
        (errno.EOPNOTSUPP, False),
        (None, False),
    ],
)
def test_the_storage_is_blamed_for_what_any_path_may_meet_and_passes(
    number: int | None, is_of_the_storage: bool
) -> None:
    error = OSError("unknown") if number is None else OSError(number, "told")
    assert is_outage(error) == is_of_the_storage


@pytest.mark.parametrize("read", [read_part_header, check_part])
def test_a_part_that_cannot_be_read_now_is_not_taken_for_none(
    part: Path, lose: Lose, read: Callable[[Path], object]
) -> None:
    assert read(part) is not None
    lose(part)
    with pytest.raises(RetryableError, match=r"part-00000\.safetensors: Input/output error; "):
        read(part)


def test_rows_that_cannot_be_read_now_are_not_damaged(part: Path, lose: Lose) -> None:
    table = FeatureTable(part.parent)
    lose(part)
    with pytest.raises(RetryableError, match="Input/output error"):
        table.read_rows(0, 2)


def test_an_array_that_cannot_be_read_now_is_not_a_bad_one(tmp_path: Path, lose: Lose) -> None:
    write_array(tmp_path / "a.npy", np.arange(3))
    lose(tmp_path / "a.npy")
    with pytest.raises(RetryableError, match=r"a\.npy: Input/output error"):
        read_array(tmp_path / "a.npy")


def test_json_that_cannot_be_read_now_is_not_damaged(tmp_path: Path, lose: Lose) -> None:
    write_json(tmp_path / "a.json", {})
    lose(tmp_path / "a.json")
    with pytest.raises(RetryableError, match=r"a\.json: Input/output error"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["dataset.json", "samples.txt", "labels.npy"])
def test_a_listing_that_cannot_be_read_now_was_not_changed(
    tmp_path: Path, lose: Lose, name: str
) -> None:
    write_samples(tmp_path, Samples(("a/1.png",), np.array([0]), ("a",)))
    lose(tmp_path / name)
    with pytest.raises(RetryableError, match="Input/output error"):
        read_samples(tmp_path)


@pytest.mark.parametrize("name", ["list.txt", "list.npy"])
def test_a_file_list_that_cannot_be_read_now_is_not_missing(
    tmp_path: Path, lose: Lose, name: str
) -> None:
    (tmp_path / name).touch()
    lose(tmp_path / name)
    with pytest.raises(RetryableError, match="Input/output error"):
        read_path_list(tmp_path / name, tmp_path, "data.train")
