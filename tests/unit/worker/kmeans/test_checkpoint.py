"""The file that a fit goes on from: what is read back, and what is said where it cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clusterfit.errors import RetryableError
from clusterfit.worker.kmeans import checkpoint as checkpoint_module
from clusterfit.worker.kmeans.checkpoint import FitCheckpoint
from clusterfit.worker.kmeans.engine import Fit
from clusterfit.worker.log import Log

from .conftest import draw

INITIAL = draw(4, 3, seed=1)
FIT = Fit(draw(4, 3), (9.5, 7.25), draw(4, 3, seed=2), draw(4, 3, seed=3), True, False, 0.125)


def open_checkpoint(folder: Path, fingerprint: str = "a") -> FitCheckpoint:
    return FitCheckpoint(folder / "checkpoint.bin", fingerprint, lambda: None)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Return the folder of a checkpoint."""
    open_checkpoint(tmp_path).write(FIT, INITIAL)
    return tmp_path


def assert_equal(ours: Fit, theirs: Fit) -> None:
    for name in Fit.__slots__:
        mine, other = getattr(ours, name), getattr(theirs, name)
        np.testing.assert_array_equal(mine, other, err_msg=name)
        assert type(mine) is type(other), name


@pytest.mark.parametrize("fit", [FIT, Fit(draw(4, 3))])
def test_what_is_written_is_read(tmp_path: Path, fit: Fit) -> None:
    open_checkpoint(tmp_path).write(fit, INITIAL)
    read = open_checkpoint(tmp_path).read(Log("cluster", 0))
    assert read is not None
    assert_equal(read[0], fit)
    np.testing.assert_array_equal(read[1], INITIAL)


def test_it_is_written_when_it_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(tmp_path)
    checkpoint.write_when_due(FIT, INITIAL)
    assert list(tmp_path.iterdir()) == [], "not within the first half minute"
    monkeypatch.setattr(checkpoint_module, "CHECKPOINT_SECONDS", 0.0)
    checkpoint.write_when_due(FIT, INITIAL)
    assert checkpoint.read(Log("cluster", 0)) is not None
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []


def test_there_may_be_none_or_another_clusterings(
    written: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert open_checkpoint(written, "b").read(Log("cluster", 0)) is None
    assert open_checkpoint(tmp_path_factory.mktemp("none")).read(Log("cluster", 0)) is None
    assert capsys.readouterr().out == ""


def test_a_single_bit_that_flipped_is_noticed_wherever_it_is(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written / "checkpoint.bin"
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        assert open_checkpoint(written).read(Log("cluster", 0)) is None, place
        told = capsys.readouterr().out
        assert told.count("level=warning") == 1
        assert "the checkpoint is damaged, beginning anew" in told


@pytest.mark.parametrize("length", [0, 5, 32, 100])
def test_one_that_is_cut_off_is_damaged(written: Path, length: int) -> None:
    path = written / "checkpoint.bin"
    path.write_bytes(path.read_bytes()[:length])
    assert open_checkpoint(written).read(Log("cluster", 0)) is None


def test_storage_that_fails_is_not_a_checkpoint_that_is_not_there(
    written: Path, lose: Callable[[Path], None]
) -> None:
    """Or the fit would begin anew, and soon write over what is there."""
    lose(written / "checkpoint.bin")
    with pytest.raises(RetryableError, match="Input/output error"):
        open_checkpoint(written).read(Log("cluster", 0))


def test_one_that_cannot_be_read_for_good_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoint.bin").mkdir()
    assert open_checkpoint(tmp_path).read(Log("cluster", 0)) is None
    assert "the checkpoint cannot be read, beginning anew" in capsys.readouterr().out
