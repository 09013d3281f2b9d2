"""VISSL's extracted features -> the feature parts of a run, from which `cluster` goes on.

They become a run of their own, the one that `inputs.features` names, because nobody can say which
settings they were extracted with. Rows come in the data set's order, one an image.

N: images of a partition, D: feature_dim, n: rows of one part.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

import clusterfit
from clusterfit.artifacts.dataset import Samples, write_samples
from clusterfit.artifacts.files import compute_sha256, write_json
from clusterfit.artifacts.layout import PARTITIONS, TRAIN, RunDirectory
from clusterfit.artifacts.manifest import FileRecord, Identity, find_manifest, write_manifest
from clusterfit.artifacts.owner import Writer, claim
from clusterfit.artifacts.part import part_name, write_part
from clusterfit.artifacts.partition import list_samples
from clusterfit.config.tree import Algorithm
from clusterfit.errors import ConfigError, InvalidDataError
from clusterfit.interop.vissl_features import VisslFeatures, list_feature_layers
from clusterfit.interop.vissl_order import list_in_vissl_order

_THEIR_PARTITIONS: Final = dict(zip(PARTITIONS, ("train", "test"), strict=True))
_STAGE: Final = "extract"


@dataclass(frozen=True, slots=True)
class ImportedFeatures:
    """What was written of one partition."""

    partition: str
    folder: Path
    num_samples: int
    feature_dim: int
    num_duplicates: int
    """Rows that VISSL's sampler had padded with, left out."""


def import_vissl_features(
    folder: Path, config: Algorithm, data_root: Path, storage_root: Path, layer: str = ""
) -> Iterator[ImportedFeatures]:
    """Write the run that `inputs.features` names, from a folder of VISSL's chunks.

    Args:
        folder: Where VISSL's extraction wrote, its CHECKPOINT.DIR.
        config: The run that will read them: its data, `inputs.features` and `extract.layer`.
        data_root: Where the images are, whose order decides.
        storage_root: Where runs are.
        layer: VISSL's name of the layer; empty: the only one that the folder has.

    Yields:
        Each partition as it is done.

    Raises:
        ConfigError: `inputs.features` names no run.
        MissingInputError: chunks, or the images, are not there.
        InvalidDataError: they do not belong together, or the run has other features.
        WriteError: the run cannot be written.
    """
    name = config.inputs.features
    if not name:
        raise ConfigError(
            "inputs.features: missing, want a name for the run that shall hold the features: "
            "add inputs: {features: NAME} to the run file, or --set 'inputs.features=\"NAME\"'"
        )
    layer = layer or _find_only_layer(folder)
    partitions = PARTITIONS if config.data.val else (TRAIN,)
    class_names: tuple[str, ...] = ()
    opened: dict[str, tuple[Samples, VisslFeatures]] = {}
    for partition in partitions:
        samples = list_samples(config.data, data_root, partition, class_names)
        class_names = samples.class_names
        theirs = VisslFeatures(folder, _THEIR_PARTITIONS[partition], layer, len(samples.paths))
        opened[partition] = samples, theirs
    run = RunDirectory(storage_root, name)
    writer = claim(run, _STAGE, submission="")
    writer.start_heartbeat()
    try:
        for partition, (samples, theirs) in opened.items():
            write_samples(run.data(partition), samples, writer.check)
            _write_partition(run, config, partition, samples, theirs, layer, writer)
            yield ImportedFeatures(
                partition=partition,
                folder=run.features(config.extract.layer, partition),
                num_samples=theirs.num_samples,
                feature_dim=theirs.feature_dim,
                num_duplicates=theirs.num_duplicates,
            )
        record = {
            "imported": {"from": "VISSL", "folder": str(folder), "layer": layer},
            "versions": {"clusterfit": clusterfit.__version__},
            "host": os.uname().nodename,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_json(run.run_file, record, writer.check)
    finally:
        writer.release()


def _find_only_layer(folder: Path) -> str:
    layers = list_feature_layers(folder, _THEIR_PARTITIONS[TRAIN])
    if len(layers) > 1:
        raise ConfigError(f"{folder}: features of {', '.join(layers)}; choose with --layer")
    return layers[0]


def _write_partition(
    run: RunDirectory,
    config: Algorithm,
    partition: str,
    samples: Samples,
    theirs: VisslFeatures,
    layer: str,
    writer: Writer,
) -> None:
    """Write all parts, then the manifest, unless the very same features are there."""
    target = run.features(config.extract.layer, partition)
    digest = hashlib.sha256()
    for path in theirs.files:
        digest.update(compute_sha256(path).encode())
    rows_per_part = config.extract.rows_per_part
    identity = Identity(
        _STAGE,
        {"importedFrom": "VISSL", "layer": layer, "rowsPerPart": rows_per_part},
        {f"data.{partition}": samples.fingerprint, "chunks": digest.hexdigest()},
    )
    manifest = find_manifest(target)
    if manifest is not None and manifest.fingerprint == identity.fingerprint:
        return
    if manifest is not None:
        raise InvalidDataError(
            f"{target}: the run {run.name} has other features there; give inputs.features another "
            "name, or remove that run"
        )
    # Which row of theirs is our image i: their order is ImageFolder's where the images are folders.
    rows = None
    if config.data.format == "folder":
        relative = config.data.train if partition == TRAIN else config.data.val
        rows = list_in_vissl_order(samples.paths, relative).argsort()  # (N,)
    records: list[FileRecord] = []
    for start in range(0, theirs.num_samples, rows_per_part):
        stop = min(start + rows_per_part, theirs.num_samples)
        indices = np.arange(start, stop)
        features = theirs.read(indices if rows is None else rows[start:stop])  # (n, D)
        path = target / part_name(len(records))
        records.append(write_part(path, features, indices, identity.fingerprint, {}, writer.check))
    results = {
        "num_samples": theirs.num_samples,
        "num_rows": theirs.num_samples,
        "feature_dim": theirs.feature_dim,
        "num_excluded": 0,
        "num_duplicates": theirs.num_duplicates,
    }
    versions = {"clusterfit": clusterfit.__version__}
    write_manifest(target, identity, records, results, versions, writer.check)
