"""What evaluate has found of single backbones, kept on storage until all of them are judged.

So a stage that is stopped goes on with the backbone that it was at.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

from clusterfit.artifacts.files import read_json, write_json
from clusterfit.errors import InvalidDataError, MissingInputError
from clusterfit.worker.context import Context
from clusterfit.worker.identity import identify_evaluation
from clusterfit.worker.probes.images import LabelledImages

Row = dict[str, Any]
"""What results.json says of one backbone."""


class JudgedBackbones:
    """A file for each backbone: its row, and the images that could not be read for it."""

    def __init__(self, context: Context, partitions: Sequence[LabelledImages]) -> None:
        """Keep nothing yet; partitions are those that backbones are judged on."""
        self._context = context
        self._partitions = partitions
        self._fingerprints: dict[int, str] = {}  # of the main rank alone, before it judges

    def find(self, number: int) -> Row | None:
        """Return an earlier attempt's row of a backbone, under these very settings, on every rank.

        Images that could not be read then are left out, as they were.
        """
        env = self._context.env
        record = None
        if env.is_main_rank:
            self._fingerprints[number] = self._identify(number)
            record = self._read(number)
        record = env.broadcast_object(record)
        if record is None:
            return None
        for partition, unreadable in zip(self._partitions, record["unreadable"], strict=True):
            partition.leave_out({int(index): why for index, why in unreadable.items()})
        row: Row = record["row"]
        if env.is_main_rank:
            self._context.log.info("already judged", label=row["label"])
        return row

    def keep(self, number: int, row: Row) -> None:
        """Write what was found of a backbone that `find` did not; every rank may call it."""
        if self._context.env.is_main_rank:
            record = {
                "fingerprint": self._fingerprints[number],
                "row": row,
                "unreadable": [partition.unreadable for partition in self._partitions],
            }
            write_json(self._context.run.judged(number), record, self._context.guard)

    def forget(self) -> None:
        """Remove all that was kept, because results.json says it too."""
        shutil.rmtree(self._context.run.judged(0).parent, ignore_errors=True)

    def _read(self, number: int) -> dict[str, Any] | None:
        try:
            record = read_json(self._context.run.judged(number))
        except (MissingInputError, InvalidDataError):
            return None
        return record if record.get("fingerprint") == self._fingerprints[number] else None

    def _identify(self, number: int) -> str:
        context = self._context
        identity = identify_evaluation(context.assignment, [number], context.env.world_size)
        return identity.fingerprint
