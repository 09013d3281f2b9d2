"""metrics.jsonl: how a training went, a line for each epoch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from clusterfit.artifacts.files import write_file
from clusterfit.worker.context import Context

METRICS_NAME: Final = "metrics.jsonl"

_FINAL: Final = ("loss", "accuracy", "held_out_accuracy", "images_per_second")
"""What is told when a training has finished, of the metrics that it has."""


class Metrics:
    """The lines of one training, the same on every rank; the main rank writes and tells them.

    Attributes:
        lines: one for each epoch so far; a checkpoint keeps them.
    """

    def __init__(self, context: Context, folder: Path) -> None:
        """Begin without a line; what stands in the folder stays until there is one."""
        self._context = context
        self._path = folder / METRICS_NAME
        self.lines: list[dict[str, Any]] = []

    def add(self, line: dict[str, Any]) -> None:
        """Add an epoch's line, and write them all: a resumed training may repeat an epoch."""
        self.lines.append(line)
        if self._context.env.is_main_rank:
            text = "".join(json.dumps(each) + "\n" for each in self.lines)
            write_file(self._path, text.encode(), self._context.guard)
            self._context.log.info("epoch", **_round(line))

    def describe_final(self) -> dict[str, Any]:
        """Return what the last epoch came to, in few digits."""
        return _round({key: self.lines[-1][key] for key in _FINAL if key in self.lines[-1]})


def _round(line: dict[str, Any]) -> dict[str, Any]:
    return {
        key: float(f"{value:.4g}") if isinstance(value, float) else value
        for key, value in line.items()
    }
