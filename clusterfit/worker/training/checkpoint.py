"""Checkpoints of a training: whole or not at all, few, and only ever of this very training."""

from __future__ import annotations

import io
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from clusterfit.artifacts.files import Guard, remove_files, write_file
from clusterfit.artifacts.manifest import Identity, check_identity
from clusterfit.artifacts.outage import check_storage
from clusterfit.worker.log import Log
from clusterfit.worker.seal import compute_seal, unseal

_KEYS = {"identity", "step", "state"}
_NAME = re.compile(r"step-(\d{9})\.pt")


class Checkpoints:
    """The newest few checkpoints in a folder, written by the main rank, read by all."""

    def __init__(self, folder: Path, identity: Identity, keep: int, guard: Guard) -> None:
        """Use a folder for the checkpoints of one training."""
        self._folder = folder
        self._identity = identity
        self._keep = keep
        self._guard = guard

    def write(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after `step` optimizer steps, then remove those that it makes idle.

        That is all but the newest few, and those of later steps: they could not be read when this
        training began, or it would have gone on from them.

        Raises:
            WriteError: when it cannot be written; older ones stay.
        """
        buffer = io.BytesIO()
        torch.save({"identity": asdict(self._identity), "step": step, "state": state}, buffer)
        buffer.write(compute_seal(buffer.getbuffer()))
        written = self._folder / f"step-{step:09d}.pt"
        write_file(written, buffer.getvalue(), self._guard)
        paths = self._paths()
        position = paths.index(written)
        remove_files(paths[:position] + paths[position + self._keep :])

    def find_newest(self, log: Log) -> int:
        """Return the step of the newest checkpoint that is whole, or 0.

        Raises:
            InvalidDataError: when it is of a training with other settings; names each difference.
            RetryableError: when the storage failed: the newest may be as good as ever.
        """
        for path in self._paths():
            content = self._read(path)
            if content is not None:
                check_identity(self._folder, Identity(**content["identity"]), self._identity)
                return int(content["step"])
            log.warning("a checkpoint cannot be used, trying the one before", path=path)
        return 0

    def read(self, step: int) -> dict[str, Any]:
        """Return the state after `step` steps, on the CPU."""
        content = self._read(self._folder / f"step-{step:09d}.pt")
        if content is None:
            raise OSError(f"checkpoint of step {step} is gone")
        state: dict[str, Any] = content["state"]
        return state

    def _paths(self) -> list[Path]:
        """Return all checkpoints, newest first."""
        return sorted(
            (path for path in self._folder.glob("step-*.pt") if _NAME.fullmatch(path.name)),
            reverse=True,
        )

    def _read(self, path: Path) -> dict[str, Any] | None:
        """Return what a checkpoint holds, None where a single bit of it is not what was written."""
        try:
            # Here, because torch tells a disk's errors as a damaged file's.
            packed = unseal(path.read_bytes())
        except OSError as error:
            check_storage(path, error)
            return None
        if packed is None:
            return None
        try:
            content = torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)
        except Exception:  # noqa: BLE001 - what is no state of ours ends in anything
            return None
        return content if isinstance(content, dict) and content.keys() == _KEYS else None
