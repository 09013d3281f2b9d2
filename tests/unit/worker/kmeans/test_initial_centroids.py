"""Centroids that the run file gives: numbers of float32, one row a cluster."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from clusterfit.errors import InvalidDataError
from clusterfit.worker.context import Context
from clusterfit.worker.kmeans.fitting import _read_initial_centroids
from clusterfit.worker.kmeans.rows import RowSource


def read(folder: Path, centroids: np.ndarray) -> np.ndarray:
    """Read the centroids of 2 clusters of rows of 3 dimensions."""
    np.save(folder / "centroids.npy", centroids)
    cluster = SimpleNamespace(initial_centroids="centroids.npy", num_clusters=2)
    context = SimpleNamespace(
        config=SimpleNamespace(cluster=cluster), run=SimpleNamespace(storage_root=folder)
    )
    return _read_initial_centroids(cast(Context, context), cast(RowSource, SimpleNamespace(dim=3)))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i8", "u1"])
def test_numbers_of_any_width_become_float32(tmp_path: Path, dtype: str) -> None:
    found = read(tmp_path, np.arange(6, dtype=dtype).reshape(2, 3))
    assert found.dtype == np.float32
    assert found.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("centroids", "fault"),
    [
        (np.zeros((3, 2)), r"is \(3, 2\), want \(2, 3\)"),
        (np.full((2, 3), np.nan), "not finite in float32"),
        (np.full((2, 3), 1e300), "not finite in float32"),
        (np.full((2, 3), "1"), "is <U1, want numbers"),
        (np.full((2, 3), 1j), "is complex128, want numbers"),
        (np.full((2, 3), 1, "m8[s]"), r"is timedelta64\[s\], want numbers"),
    ],
)
def test_what_are_no_such_numbers_is_refused(
    tmp_path: Path, centroids: np.ndarray, fault: str
) -> None:
    with pytest.raises(InvalidDataError, match=rf"^cluster\.initialCentroids: .*\.npy .*{fault}"):
        read(tmp_path, centroids)
