"""Checkpoints of a training: whole or not at all, few, and only ever of this very training."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import torch

from clusterfit.artifacts.files import Guard, write_file
from clusterfit.worker.log import Log

_NAME = re.compile(r"step-(\d{9})\.pt")


class Checkpoints:
    """The newest few checkpoints in a folder, written by the main rank, read by all."""

    def __init__(self, folder: Path, fingerprint: str, keep: int, guard: Guard) -> None:
        """Use a folder; checkpoints of another fingerprint in it are not ours."""
        self._folder = folder
        self._fingerprint = fingerprint
        self._keep = keep
        self._guard = guard

    def write(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after `step` optimizer steps, then remove the oldest.

        Raises:
            WriteError: when it cannot be written; older ones stay.
        """
        buffer = io.BytesIO()
        torch.save({"fingerprint": self._fingerprint, "step": step, "state": state}, buffer)
        write_file(self._folder / f"step-{step:09d}.pt", buffer.getvalue(), self._guard)
        for path in self._paths()[self._keep :]:
            path.unlink(missing_ok=True)

    def find_newest(self, log: Log) -> int:
        """Return the step of the newest readable checkpoint of this training, or 0."""
        for path in self._paths():
            state = self._read(path)
            if state is not None:
                return int(state["step"])
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
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # noqa: BLE001 - torch.load has no error of its own for a damaged file
            return None
        is_ours = isinstance(content, dict) and content.get("fingerprint") == self._fingerprint
        return content if is_ours else None
