"""What a clustering goes on from, and that failing storage does not make it begin anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clusterfit.errors import RetryableError
from clusterfit.worker.kmeans.checkpoint import FitCheckpoint
from clusterfit.worker.kmeans.engine import Fit

CENTROIDS = np.arange(6, dtype=np.float32).reshape(2, 3)


def open_checkpoint(path: Path, fingerprint: str = "ours") -> FitCheckpoint:
    return FitCheckpoint(path, fingerprint, lambda: None)


def test_a_fit_comes_back_as_it_was_to_its_own_clustering(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    assert open_checkpoint(path).read() is None
    fit = Fit(CENTROIDS + 1, (3.5, 2.5), previous=CENTROIDS, anchor=CENTROIDS, is_resting=True)
    open_checkpoint(path).write_when_due(fit, CENTROIDS, is_stopping=True)
    found = open_checkpoint(path).read()
    assert found is not None
    back, initial = found
    np.testing.assert_array_equal(back.centroids, fit.centroids)
    np.testing.assert_array_equal(initial, CENTROIDS)
    assert back.previous is not None
    assert back.anchor is not None
    assert (back.objectives, back.is_resting, back.is_settled) == ((3.5, 2.5), True, False)
    assert open_checkpoint(path, "theirs").read() is None


def test_a_torn_one_is_none_and_one_that_cannot_be_read_now_is_waited_for(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"torn")
    assert open_checkpoint(path).read() is None
    lose(path)
    with pytest.raises(RetryableError, match="Input/output error"):
        open_checkpoint(path).read()
