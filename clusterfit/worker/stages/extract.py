"""Extract (step 1a): features of every image, in parts that any rank may write.

Ranks claim parts from a counter in the process group's store, a few batches ahead, so a slow one
slows the others by no more than what it has claimed, and there is no collective in the loop. While
a part is written the next one is loaded. What a part holds does not depend on who writes it. Who
writes a part hashes it; those of an earlier attempt are read through, and extracted again where
they are not what was written. So a manifest never vouches for bytes that nobody has checked, and no
rank waits for another one to hash them all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
import torch

from clusterfit.artifacts.dataset import read_samples
from clusterfit.artifacts.files import Guard, remove_files, write_file
from clusterfit.artifacts.layout import MANIFEST_NAME
from clusterfit.artifacts.manifest import FileRecord, Identity, is_finished, write_manifest
from clusterfit.artifacts.part import (
    PartHeader,
    check_part,
    part_name,
    read_part_header,
    write_part,
)
from clusterfit.errors import InvalidDataError, RetryableError
from clusterfit.worker.context import Context
from clusterfit.worker.data.images import Batch
from clusterfit.worker.data.unreadable import EXCLUDED_NAME, check_unreadable, format_unreadable
from clusterfit.worker.identity import list_partitions, list_targets, require_weights
from clusterfit.worker.log import ProgressReporter
from clusterfit.worker.networks.inference import FrozenBackbone, load_model
from clusterfit.worker.versions import read_versions

_SEEN_WITHIN_SECONDS: Final = 90.0
"""NFS may hide for 60 s what another node has written, unless it is mounted to do so longer."""


def run(context: Context) -> None:
    """Extract the features of each partition, missing parts only."""
    config = context.config.extract
    weights_file: Path | None = None
    if config.weights.source == "pretext":
        weights_file = require_weights(context.assignment, "pretext", context.run)
    elif config.weights.source == "path":
        weights_file = context.run.storage_root / config.weights.path
    model = load_model(config.model, weights_file, config.weights, context, config, "extract.model")
    backbone = FrozenBackbone(context, config, model, config.layer, config.pooling, "extract.layer")
    targets = list_targets(context.assignment, context.env.world_size)
    for partition, (folder, identity) in zip(list_partitions(context.config), targets, strict=True):
        is_done = context.env.is_main_rank and is_finished(folder, identity)
        if context.env.broadcast_object(is_done):
            continue
        paths = read_samples(context.run.data(partition)).paths
        _PartitionExtraction(context, backbone, partition, folder, identity, paths).run()


class _PartitionExtraction:
    """The parts of one partition: which are missing, who writes them, are they all there."""

    def __init__(
        self,
        context: Context,
        backbone: FrozenBackbone,
        partition: str,
        folder: Path,
        identity: Identity,
        paths: tuple[str, ...],
    ) -> None:
        self._context = context
        self._backbone = backbone
        self._partition = partition
        self._folder = folder
        self._identity = identity
        self._paths = paths
        self._rows_per_part = context.config.extract.rows_per_part
        self._num_parts = -(-len(paths) // self._rows_per_part)

    def run(self) -> None:
        """Write the missing parts, check those that are there, then write the manifest."""
        env, log = self._context.env, self._context.log
        plan = self._plan() if env.is_main_rank else None
        missing, found = env.wait_for_object(f"{self._partition}/plan", plan)
        num_missing = sum(len(self._rows(number)) for number in missing)
        progress = ProgressReporter(
            log, len(self._paths), "images", len(self._paths) - num_missing
        ) if env.is_main_rank else None  # fmt: skip
        numbers = self._claim("claimed", missing)
        first = next(numbers, None)  # no loader is started for nothing
        records = {} if first is None else self._write(chain([first], numbers), progress)
        damaged = []
        for number in self._claim("checked", found):
            if (record := self._check(number)) is None:
                damaged.append(number)
            else:
                records[number] = record
        if damaged:
            records |= self._write(damaged, progress)
        # The last part may take its rank long, and nobody else has anything left to do.
        env.wait_for_everyone(f"{self._partition}/written", lambda: self._see(0, progress))
        records = env.merge(records)
        if env.is_main_rank:
            if progress is not None:
                progress.update(len(self._paths))
            self._finish(records)
        env.wait_for_object(f"{self._partition}/finished", True)

    def _claim(self, counter: str, numbers: Sequence[int]) -> Iterator[int]:
        """Yield the parts that fall to this rank: whoever is free takes the next one."""
        store, key = self._context.env.store, f"{self._partition}/{counter}"
        while (claimed := store.add(key, 1) - 1) < len(numbers):
            yield numbers[claimed]

    def _rows(self, number: int) -> range:
        start = number * self._rows_per_part
        return range(start, min(start + self._rows_per_part, len(self._paths)))

    def _plan(self) -> tuple[list[int], list[int]]:
        """Return the parts that are missing, and those that an earlier attempt has written."""
        numbers: tuple[list[int], list[int]] = ([], [])
        for number in range(self._num_parts):
            numbers[self._read_header(number) is not None].append(number)
        # A part that is written anew must not meet the old manifest, should this attempt be killed.
        self._context.guard()
        remove_files([self._folder / MANIFEST_NAME])
        return numbers

    def _check(self, number: int) -> FileRecord | None:
        """Return the record of a part of an earlier attempt, None where it is to be redone."""
        self._context.env.stop.check()
        path = self._folder / part_name(number)
        record = check_part(path)
        if record is None:
            self._context.log.warning("a part is damaged, extracting it again", path=path)
            self._context.env.store.add(f"{self._partition}/seen", -len(self._rows(number)))
        return record

    def _read_header(self, number: int) -> PartHeader | None:
        """Return the header of a part that is whole and ours."""
        header = read_part_header(self._folder / part_name(number))
        if header is None or header.fingerprint != self._identity.fingerprint:
            return None
        is_whole = header.num_rows + len(header.excluded) == len(self._rows(number))
        return header if is_whole else None

    def _write(
        self, numbers: Iterable[int], progress: ProgressReporter | None
    ) -> dict[int, FileRecord]:
        """Extract parts and write each when it is whole, loading the next one meanwhile."""
        started: deque[int] = deque()  # a few batches ahead of what comes out

        def start() -> Iterator[range]:
            for number in numbers:
                started.append(number)
                yield self._rows(number)

        records = {}
        rows = _Rows()
        for batch, features in self._backbone.extract(self._paths, start()):
            self._context.env.stop.check()
            rows.add(batch, self._to_numpy(features) if len(features) else None)
            self._check_excluded(rows.excluded, "at least ")
            self._see(len(features) + len(batch.unreadable), progress)
            if rows.num_seen == len(self._rows(started[0])):
                number = started.popleft()
                path = self._folder / part_name(number)
                records[number] = rows.write(path, self._identity.fingerprint, self._context.guard)
                rows = _Rows()
        return records

    def _see(self, num_images: int, progress: ProgressReporter | None) -> None:
        """Count images as seen, and tell how many all ranks have."""
        done = self._context.env.store.add(f"{self._partition}/seen", num_images)
        if progress is not None:
            progress.advance_to(done)

    def _to_numpy(self, features: torch.Tensor) -> np.ndarray:
        """Return rows as they are stored."""
        config = self._context.config.extract
        if config.normalize:
            features = torch.nn.functional.normalize(features)
        stored = features.to("cpu", torch.float16 if config.dtype == "float16" else torch.float32)
        if not bool(torch.isfinite(stored).all()):
            raise InvalidDataError(
                f"extract.dtype: features up to {float(features.abs().max()):.3g} do not fit "
                "float16; set extract.dtype: float32, or extract.normalize: true"
            )
        array: np.ndarray = stored.numpy()
        return array

    def _finish(self, records: dict[int, FileRecord]) -> None:
        """Look at every part, then vouch for all of them."""
        whole = self._read_headers()
        excluded = {index: why for header in whole for index, why in header.excluded.items()}
        self._check_excluded(excluded)
        files: list[str | FileRecord] = [records[number] for number in range(self._num_parts)]
        if excluded:
            lines = format_unreadable(self._paths, excluded)
            write_file(self._folder / EXCLUDED_NAME, lines.encode(), self._context.guard)
            files.append(EXCLUDED_NAME)
        feature_dim = max(header.feature_dim for header in whole)
        results = {
            "num_samples": len(self._paths),
            "num_rows": sum(header.num_rows for header in whole),
            "num_excluded": len(excluded),
            "feature_dim": feature_dim,
        }
        write_manifest(
            self._folder, self._identity, files, results, read_versions(), self._context.guard
        )
        self._context.log.info(
            "finished", partition=self._partition, folder=self._folder, **results
        )

    def _read_headers(self) -> list[PartHeader]:
        """Return the headers of all parts, each of which some rank has written."""
        headers: dict[int, PartHeader] = {}

        def see_all() -> bool:
            for number in range(self._num_parts):
                if number not in headers and (header := self._read_header(number)) is not None:
                    headers[number] = header
            return len(headers) == self._num_parts

        if not self._context.env.wait_until(see_all, _SEEN_WITHIN_SECONDS):
            gaps = [number for number in range(self._num_parts) if number not in headers]
            raise RetryableError(
                f"{self._folder}: parts {gaps[:10]} were written and are not seen here after "
                f"{_SEEN_WITHIN_SECONDS:g} s; trying again"
            )
        return [headers[number] for number in range(self._num_parts)]

    def _check_excluded(self, excluded: dict[int, str], at_least: str = "") -> None:
        data = self._context.config.data
        check_unreadable(data, self._partition, self._paths, excluded, at_least)


class _Rows:
    """The rows of one part, as batches come."""

    def __init__(self) -> None:
        self._features: list[np.ndarray] = []
        self._sample_indices: list[np.ndarray] = []
        self.excluded: dict[int, str] = {}
        self.num_seen = 0

    def add(self, batch: Batch, features: np.ndarray | None) -> None:
        """Take a batch's (n, D) rows; none where no image of it could be read."""
        self.excluded |= batch.unreadable
        self.num_seen += len(batch.sample_indices) + len(batch.unreadable)
        if features is not None:
            self._features.append(features)
            self._sample_indices.append(batch.sample_indices.numpy())

    def write(self, path: Path, fingerprint: str, guard: Guard) -> FileRecord:
        """Write the part."""
        return write_part(
            path,
            np.concatenate(self._features) if self._features else np.empty((0, 0), np.float32),
            np.concatenate(self._sample_indices) if self._sample_indices else np.empty(0, np.int64),
            fingerprint,
            self.excluded,
            guard,
        )
