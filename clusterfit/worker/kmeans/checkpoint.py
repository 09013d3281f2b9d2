"""Where a clustering has got to, in one file that is replaced from time to time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from clusterfit.artifacts.files import Guard, remove_files, write_file
from clusterfit.artifacts.outage import check_storage
from clusterfit.worker.kmeans.engine import Fit

CHECKPOINT_SECONDS: Final = 30.0


class FitCheckpoint:
    """A fit as it stands, and the centroids that it began with."""

    def __init__(self, path: Path, fingerprint: str, guard: Guard) -> None:
        """Keep the checkpoint of the clustering with this fingerprint at `path`."""
        self._path = path
        self._fingerprint = fingerprint
        self._guard = guard
        self._last = time.monotonic()

    def read(self) -> tuple[Fit, np.ndarray] | None:
        """Return the last fit of this very clustering and its initial centroids.

        Raises:
            RetryableError: when the storage failed.
        """
        try:
            tensors = load(self._path.read_bytes())
        except OSError as error:
            check_storage(self._path, error)
            return None
        except SafetensorError:
            return None
        if tensors["fingerprint"].tobytes().decode() != self._fingerprint or "flags" not in tensors:
            return None
        objectives = tuple(tensors["objectives"].tolist())
        is_resting, is_settled = tensors["flags"].tolist()
        fit = Fit(
            tensors["centroids"],
            objectives,
            tensors.get("previous"),
            tensors.get("anchor"),
            is_resting,
            is_settled,
        )
        return fit, tensors["initial"]

    def write_when_due(self, fit: Fit, initial: np.ndarray, is_stopping: bool) -> None:
        """Write where the last one is old, or where there will be no later one."""
        if not is_stopping and time.monotonic() - self._last < CHECKPOINT_SECONDS:
            return
        tensors = {
            "centroids": fit.centroids,
            "initial": initial,
            "objectives": np.array(fit.objectives, np.float64),
            "flags": np.array([fit.is_resting, fit.is_settled]),
            "fingerprint": np.frombuffer(self._fingerprint.encode(), np.uint8),
        }
        if fit.previous is not None:
            tensors["previous"] = fit.previous
        if fit.anchor is not None:
            tensors["anchor"] = fit.anchor
        write_file(self._path, save(tensors), self._guard)
        self._last = time.monotonic()

    def remove(self) -> None:
        """Remove it: the clustering has finished."""
        remove_files([self._path])
