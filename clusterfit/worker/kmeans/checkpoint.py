"""Where a clustering has got to, in one file that is replaced from time to time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import load, save

from clusterfit.artifacts.files import Guard, remove_files, write_file
from clusterfit.artifacts.outage import check_storage
from clusterfit.worker.kmeans.engine import Balance, Fit
from clusterfit.worker.log import Log
from clusterfit.worker.seal import compute_seal, unseal

CHECKPOINT_SECONDS: Final = 30.0


class FitCheckpoint:
    """A fit as it stands, and the centroids that it began with: tensors, sealed."""

    def __init__(self, path: Path, fingerprint: str, guard: Guard) -> None:
        """Keep the checkpoint of the clustering with this fingerprint at `path`."""
        self._path = path
        self._fingerprint = fingerprint
        self._guard = guard
        self._last = time.monotonic()

    def read(self, log: Log) -> tuple[Fit, np.ndarray] | None:
        """Return the last fit of this very clustering and its initial centroids.

        None where there is none, or none that can be used, which is told.

        Raises:
            RetryableError: when the storage fails: beginning anew would overwrite what it holds.
        """
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            check_storage(self._path, error)
            log.warning("the checkpoint cannot be read, beginning anew", path=self._path, why=error)
            return None
        packed = unseal(content)
        if packed is None:
            log.warning("the checkpoint is damaged, beginning anew", path=self._path)
            return None
        tensors = load(packed)
        if tensors["fingerprint"].tobytes().decode() != self._fingerprint:
            return None
        is_resting, is_settled, is_balanced = tensors["flags"].tolist()
        balance = None
        if "prices" in tensors:
            objectives = tuple(tensors["balanced_objectives"].tolist())
            balance = Balance(tensors["prices"], objectives, is_balanced)
        fit = Fit(
            tensors["centroids"],
            tuple(tensors["objectives"].tolist()),
            tensors.get("previous"),
            tensors.get("anchor"),
            is_resting,
            is_settled,
            float(tensors["rounding_excess"]),
            balance,
        )
        return fit, tensors["initial"]

    def write_when_due(self, fit: Fit, initial: np.ndarray) -> None:
        """Write where the last one is old."""
        if time.monotonic() - self._last >= CHECKPOINT_SECONDS:
            self.write(fit, initial)

    def write(self, fit: Fit, initial: np.ndarray) -> None:
        """Replace what is there.

        Raises:
            WriteError: when it cannot be written; what was there stays.
        """
        balance = fit.balance
        is_balanced = balance is not None and balance.is_settled
        tensors = {
            "centroids": fit.centroids,
            "initial": initial,
            "objectives": np.array(fit.objectives, np.float64),
            "flags": np.array([fit.is_resting, fit.is_settled, is_balanced]),
            "rounding_excess": np.array(fit.rounding_excess, np.float64),
            "fingerprint": np.frombuffer(self._fingerprint.encode(), np.uint8),
        }
        if fit.previous is not None:
            tensors["previous"] = fit.previous
        if fit.anchor is not None:
            tensors["anchor"] = fit.anchor
        if balance is not None:
            tensors["prices"] = balance.prices
            tensors["balanced_objectives"] = np.array(balance.objectives, np.float64)
        packed = save(tensors)
        write_file(self._path, packed + compute_seal(packed), self._guard)
        self._last = time.monotonic()

    def remove(self) -> None:
        """Remove it: the clustering has finished."""
        remove_files([self._path])
