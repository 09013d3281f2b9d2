"""The assignments of one partition, written by all ranks: each its share, rank 0 the whole.

A share is a contiguous range of the data set's order, so the whole is the shares one after another
and no rank ever holds more than its own. N: images of a partition, n: rows of a share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from clusterfit.artifacts.files import (
    PARTIAL_SUFFIX,
    Guard,
    concatenate_arrays,
    remove_files,
    write_array,
)
from clusterfit.artifacts.parts import FeatureTable
from clusterfit.errors import InvalidDataError
from clusterfit.worker.kmeans.engine import Assigned
from clusterfit.worker.kmeans.ranks import Ranks
from clusterfit.worker.kmeans.rows import NOT_FINITE
from clusterfit.worker.log import Log

MAX_WRONG_FRACTION: Final = 1e-5
"""Of the rows that are looked up in float64: near ties come out otherwise in so few."""

_FILLS: Final = {"assignments": -1, "distances_sq": np.nan, "nearest": -1}
"""Of images that could not be read."""


@dataclass(slots=True)
class Share:
    """What one rank has found out about its part of a partition."""

    arrays: dict[str, np.ndarray]
    """By the artifact's name, without `.npy`: (images of the share, ...)."""
    sizes: np.ndarray
    """(K,) int64 rows of each cluster."""
    objective: float
    num_assigned: int
    findings: Counter[str]

    @classmethod
    def empty(cls, num_images: int, num_clusters: int, num_nearest: int) -> Share:
        """Return a share whose images have no cluster yet."""
        arrays: dict[str, np.ndarray] = {
            "assignments": np.full(num_images, _FILLS["assignments"], np.int64),
            "distances_sq": np.full(num_images, _FILLS["distances_sq"], np.float32),
        }
        if num_nearest > 1:
            arrays["nearest"] = np.full((num_images, num_nearest), _FILLS["nearest"], np.int64)
        return cls(arrays, np.zeros(num_clusters, np.int64), 0.0, 0, Counter())

    def include(self, places: np.ndarray, found: Assigned) -> None:
        """Note the clusters of the images at these (n,) places of the share.

        Raises:
            InvalidDataError: when a row has none, because its numbers are not finite.
        """
        if not np.isfinite(found.distances_sq).all() or (found.assignments < 0).any():
            raise InvalidDataError(NOT_FINITE)
        self.arrays["assignments"][places] = found.assignments
        self.arrays["distances_sq"][places] = found.distances_sq
        if found.nearest is not None:
            self.arrays["nearest"][places] = found.nearest
        self.sizes += np.bincount(found.assignments, minlength=len(self.sizes))
        self.objective += float(found.distances_sq.sum(dtype=np.float64))
        self.num_assigned += len(places)
        self.findings.update(found.findings)


def describe(share: Share, table: FeatureTable, ranks: Ranks) -> dict[str, Any]:
    """Return what is worth knowing of a partition's assignments, of all ranks together."""
    sizes = torch.from_numpy(share.sizes)
    sums = torch.tensor([share.objective, share.num_assigned], dtype=torch.float64)
    names = ("num_rechecked", "num_audited", "num_audited_wrong")
    findings = torch.tensor([share.findings[name] for name in names])
    ranks.add(sizes, sums, findings)
    wide = sizes.double()
    imbalance = float(len(wide) * wide.square().sum() / wide.sum().clamp(min=1) ** 2)
    return {
        "data_fingerprint": table.data_fingerprint,
        "num_samples": table.num_samples,
        "num_assigned": int(sums[1]),
        "objective": float(sums[0]),
        "num_empty": int((sizes == 0).sum()),
        "imbalance": round(imbalance, 4),  # 1: all clusters of one size; as faiss defines it
        **dict(zip(names, findings.tolist(), strict=True)),
        "sizes": sizes.tolist(),
    }


def warn_where_wrong(log: Log, partitions: Mapping[str, Mapping[str, Any]]) -> None:
    """Say of which partitions too many of the assignments looked up are not float64's."""
    for partition, told in partitions.items():
        wrong, audited = told["num_audited_wrong"], told["num_audited"]
        if wrong > MAX_WRONG_FRACTION * audited:
            log.warning(
                "assignments differ from float64's",
                partition=partition,
                num_audited_wrong=wrong,
                num_audited=audited,
                why="rounding moved some rows further than those that it was measured on",
            )


def write_share(folder: Path, share: Share, rank: int, guard: Guard) -> None:
    """Write a rank's arrays beside where the whole ones will stand."""
    for name, array in share.arrays.items():
        write_array(_share_path(folder, name, rank), array, guard)


def join_shares(folder: Path, names: list[str], world_size: int, guard: Guard) -> list[str]:
    """Put the shares of all ranks together, and return the names of the files."""
    for name in names:
        shares = [_share_path(folder, name, rank) for rank in range(world_size)]
        concatenate_arrays(folder / f"{name}.npy", shares, guard)
        remove_files(shares)
    return [f"{name}.npy" for name in names]


def _share_path(folder: Path, name: str, rank: int) -> Path:
    # Hidden and partial: what a killed attempt leaves is removed by the next writer.
    return folder / f".{name}.share-{rank:05d}{PARTIAL_SUFFIX}"
