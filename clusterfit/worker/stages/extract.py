"""Extract (step 1a): features of every image, in parts that any rank may write.

Ranks claim parts from a counter in the process group's store, so a slow one slows nobody, and there
is no collective in the loop. What a part holds does not depend on who writes it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from clusterfit.artifacts.dataset import read_samples
from clusterfit.artifacts.files import write_file
from clusterfit.artifacts.manifest import Identity, is_finished, write_manifest
from clusterfit.artifacts.parts import PartHeader, part_name, read_part_header, write_part
from clusterfit.errors import InvalidDataError, RetryableError
from clusterfit.worker.context import Context
from clusterfit.worker.identity import list_partitions, list_targets
from clusterfit.worker.log import ProgressReporter
from clusterfit.worker.networks.inference import FrozenBackbone, load_model
from clusterfit.worker.versions import read_versions

_EXCLUDED_NAME = "excluded.txt"


def run(context: Context) -> None:
    """Extract the features of each partition, missing parts only."""
    config = context.config.extract
    weights_file = {
        "pretext": context.run.backbone("pretext"),
        "path": context.run.storage_root / config.weights.path,
        "random": None,
    }[config.weights.source]
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
        self._max_excluded = context.config.data.max_unreadable_fraction * len(paths)

    def run(self) -> None:
        """Write the missing parts, then the manifest."""
        env, log = self._context.env, self._context.log
        missing = env.broadcast_object(self._list_missing() if env.is_main_rank else None)
        num_missing = sum(len(self._rows(number)) for number in missing)
        progress = ProgressReporter(
            log, len(self._paths), "images", len(self._paths) - num_missing
        ) if env.is_main_rank else None  # fmt: skip
        while (claimed := env.store.add(f"{self._partition}/claimed", 1) - 1) < len(missing):
            self._write(missing[claimed], progress)
        env.barrier()
        if env.is_main_rank:
            if progress is not None:
                progress.update(len(self._paths))
            self._finish()
        env.barrier()

    def _rows(self, number: int) -> range:
        start = number * self._rows_per_part
        return range(start, min(start + self._rows_per_part, len(self._paths)))

    def _list_missing(self) -> list[int]:
        return [number for number in range(self._num_parts) if self._read_header(number) is None]

    def _read_header(self, number: int) -> PartHeader | None:
        """Return the header of a part that is whole and ours."""
        header = read_part_header(self._folder / part_name(number))
        if header is None or header.fingerprint != self._identity.fingerprint:
            return None
        is_whole = header.num_rows + len(header.excluded) == len(self._rows(number))
        return header if is_whole else None

    def _write(self, number: int, progress: ProgressReporter | None) -> None:
        env = self._context.env
        dtype = torch.float16 if self._context.config.extract.dtype == "float16" else torch.float32
        chunks: list[np.ndarray] = []
        indices: list[np.ndarray] = []
        excluded: dict[int, str] = {}
        for batch, features in self._backbone.extract(self._paths, self._rows(number)):
            env.stop.check()
            excluded |= batch.unreadable
            if len(excluded) > self._max_excluded:
                raise InvalidDataError(self._explain_excluded(excluded, "at least "))
            if len(features):
                if self._context.config.extract.normalize:
                    features = torch.nn.functional.normalize(features)
                chunks.append(self._to_numpy(features, dtype))
                indices.append(batch.sample_indices.numpy())
            seen = len(features) + len(batch.unreadable)
            done = env.store.add(f"{self._partition}/seen", seen)
            if progress is not None:
                progress.advance_to(done)
        write_part(
            self._folder / part_name(number),
            np.concatenate(chunks) if chunks else np.empty((0, 0), np.float32),
            np.concatenate(indices) if indices else np.empty(0, np.int64),
            self._identity.fingerprint,
            excluded,
            self._context.guard,
        )

    def _to_numpy(self, features: torch.Tensor, dtype: torch.dtype) -> np.ndarray:
        stored = features.to("cpu", dtype)
        if not bool(torch.isfinite(stored).all()):
            raise InvalidDataError(
                f"extract.dtype: features up to {float(features.abs().max()):.3g} do not fit "
                "float16; set extract.dtype: float32, or extract.normalize: true"
            )
        array: np.ndarray = stored.numpy()
        return array

    def _finish(self) -> None:
        """Look at every part, then vouch for all of them."""
        headers = [self._read_header(number) for number in range(self._num_parts)]
        if gaps := [number for number, header in enumerate(headers) if header is None]:
            raise RetryableError(f"{self._folder}: parts {gaps[:10]} are missing; trying again")
        whole = [header for header in headers if header is not None]
        excluded = {index: why for header in whole for index, why in header.excluded.items()}
        if len(excluded) > self._max_excluded:
            raise InvalidDataError(self._explain_excluded(excluded, ""))
        files = [part_name(number) for number in range(self._num_parts)]
        if excluded:
            lines = (f"{self._paths[i]}\t{why}\n" for i, why in sorted(excluded.items()))
            write_file(self._folder / _EXCLUDED_NAME, "".join(lines).encode(), self._context.guard)
            files.append(_EXCLUDED_NAME)
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

    def _explain_excluded(self, excluded: dict[int, str], at_least: str) -> str:
        index, why = next(iter(excluded.items()))
        limit = self._context.config.data.max_unreadable_fraction
        return (
            f"data.{self._partition}: {at_least}{len(excluded)} of {len(self._paths)} images "
            f"cannot be read, more than data.maxUnreadableFraction ({limit:g}); one is "
            f"{self._paths[index]}: {why}"
        )
