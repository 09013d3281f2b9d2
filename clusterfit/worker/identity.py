"""What each stage's artifacts must be: settings and inputs under which they are the wanted ones.

Torch-free, so that an entry can tell in a moment that its stage is finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clusterfit.artifacts.dataset import read_fingerprint
from clusterfit.artifacts.files import compute_sha256
from clusterfit.artifacts.layout import PARTITIONS, TRAIN, VAL, RunDirectory
from clusterfit.artifacts.manifest import (
    Identity,
    Manifest,
    check_file,
    check_identity,
    is_finished,
    read_manifest,
)
from clusterfit.artifacts.outage import check_storage
from clusterfit.config.sections.evaluation import EvaluatedBackbone
from clusterfit.config.sections.extraction import CenterView
from clusterfit.config.stages import STAGES, StageName
from clusterfit.config.tree import Algorithm
from clusterfit.errors import InvalidDataError, MissingInputError, RetryableError
from clusterfit.worker.arguments import Assignment


def is_stage_finished(assignment: Assignment, world_size: int) -> bool:
    """Tell whether all artifacts of the stage are there, and are these very ones.

    Raises:
        InvalidDataError: when the stage was finished with other settings.
        MissingInputError, RetryableError: when an input is not there (yet), or its storage is not.
    """
    targets = list_targets(assignment, world_size)
    return all(is_finished(folder, identity) for folder, identity in targets)


def list_targets(assignment: Assignment, world_size: int) -> list[tuple[Path, Identity]]:
    """Return the folders that the stage fills, each with its identity."""
    config, run, stage = assignment.config, assignment.run, assignment.stage
    if stage == "extract":
        return [
            (
                run.features(config.extract.layer, partition),
                identify_features(assignment, partition),
            )
            for partition in list_partitions(config)
        ]
    identify = {
        "pretext": _identify_pretext,
        "cluster": _identify_cluster,
        "train": _identify_train,
        "evaluate": _identify_evaluate,
    }[stage]
    return [(run.stage(stage), identify(assignment, world_size))]


def list_partitions(config: Algorithm) -> tuple[str, ...]:
    """Return the partitions that the run file gives."""
    return PARTITIONS if config.data.val else (TRAIN,)


def find_features(config: Algorithm, run: RunDirectory, partition: str) -> Path:
    """Return the folder of a partition's features, in this run or in `inputs.features`."""
    source = run.sibling(config.inputs.features) if config.inputs.features else run
    return source.features(config.extract.layer, partition)


def require_manifest(assignment: Assignment, stage: StageName, folder: Path) -> Manifest:
    """Return the manifest of an earlier stage.

    Raises:
        RetryableError: when it is not there yet, but the same submission makes it.
        MissingInputError: when nobody does.
    """
    try:
        return read_manifest(folder)
    except MissingInputError:
        stages = assignment.config.stages
        is_ours = folder.is_relative_to(assignment.run.root)
        if is_ours and stage in stages and STAGES.index(stage) < STAGES.index(assignment.stage):
            raise RetryableError(f"{folder}: stage {stage} has not finished yet") from None
        raise MissingInputError(
            f"{folder}: not there; {assignment.stage} needs what stage {stage} writes: run "
            f"{stage} first"
        ) from None


def require_weights(assignment: Assignment, stage: StageName, run: RunDirectory) -> Path:
    """Return the weights that a stage of some run has written, once all of them have been read.

    Raises:
        RetryableError, MissingInputError: as `require_manifest` does.
        InvalidDataError: when they are not the ones that were written.
    """
    folder = run.stage(stage)
    return check_file(folder, require_manifest(assignment, stage, folder), run.backbone(stage))


def identify_features(assignment: Assignment, partition: str) -> Identity:
    """Return the identity of one partition's features."""
    config = assignment.config
    settings = config.extract.dump_results() | _look(config)
    del settings["weights"]["path"]
    if config.extract.weights.source == "random":
        settings["seed"] = config.seed
        weights = "random"
    elif config.extract.weights.source == "pretext":
        folder = assignment.run.stage("pretext")
        weights = require_manifest(assignment, "pretext", folder).fingerprint
    else:
        weights = _hash_input(assignment, "extract.weights.path", config.extract.weights.path)
    inputs = {f"data.{partition}": _read_data(assignment, partition), "weights": weights}
    return Identity("extract", settings, inputs)


def _identify_pretext(assignment: Assignment, world_size: int) -> Identity:
    config = assignment.config
    settings = config.pretext.dump_results() | _look(config) | {"seed": config.seed}
    settings["globalBatchSize"] = config.pretext.batch_size_per_rank * world_size
    return Identity("pretext", settings, {"data.train": _read_data(assignment, TRAIN)})


def _identify_cluster(assignment: Assignment, world_size: int) -> Identity:
    del world_size  # the result is the same at any
    config, run = assignment.config, assignment.run
    inputs = {}
    for partition in list_partitions(config):
        folder = find_features(config, run, partition)
        manifest = require_manifest(assignment, "extract", folder)
        if not config.inputs.features and assignment.run.data(partition).exists():
            # Features of this run must still be the ones that this run file asks for.
            check_identity(folder, manifest.identity, identify_features(assignment, partition))
        inputs[f"features.{partition}"] = manifest.fingerprint
    settings = config.cluster.dump_results() | {"seed": config.seed}
    del settings["initialCentroids"]
    if config.cluster.initial_centroids:
        inputs["initialCentroids"] = _hash_input(
            assignment, "cluster.initialCentroids", config.cluster.initial_centroids
        )
    return Identity("cluster", settings, inputs)


def _identify_train(assignment: Assignment, world_size: int) -> Identity:
    config, run = assignment.config, assignment.run
    settings = config.train.dump_results() | _look(config) | {"seed": config.seed}
    settings["globalBatchSize"] = config.train.batch_size_per_rank * world_size
    if config.inputs.assignments:
        clusters = _hash_input(assignment, "inputs.assignments", config.inputs.assignments)
    else:
        clusters = require_manifest(assignment, "cluster", run.stage("cluster")).fingerprint
    inputs = {
        f"data.{partition}": _read_data(assignment, partition)
        for partition in list_partitions(config)
    }
    return Identity("train", settings, inputs | {"assignments": clusters})


def identify_heads(assignment: Assignment, number: int, world_size: int) -> Identity:
    """Return the identity of the heads that evaluate trains on one of its backbones."""
    config = assignment.config
    evaluate = config.evaluate.dump_results()
    settings = {key: evaluate[key] for key in ("heads", "layers", *CenterView().dump_results())}
    settings |= {"backbone": evaluate["backbones"][number]} | _look(config) | {"seed": config.seed}
    settings["globalBatchSize"] = config.evaluate.heads.batch_size_per_rank * world_size
    inputs = {f"data.{partition}": _read_data(assignment, partition) for partition in (TRAIN, VAL)}
    inputs["backbone"] = _identify_backbone(assignment, number)
    return Identity("evaluate", settings, inputs)


def _identify_evaluate(assignment: Assignment, world_size: int) -> Identity:
    numbers = range(len(assignment.config.evaluate.backbones))
    return identify_evaluation(assignment, numbers, world_size)


def identify_evaluation(
    assignment: Assignment, numbers: Sequence[int], world_size: int
) -> Identity:
    """Return the identity of what evaluate finds of some of its backbones."""
    config = assignment.config
    settings = config.evaluate.dump_results() | _look(config) | {"seed": config.seed}
    settings["backbones"] = [settings["backbones"][number] for number in numbers]
    if "heads" in config.evaluate.protocols:  # the others find the same at any world size
        settings["globalBatchSize"] = config.evaluate.heads.batch_size_per_rank * world_size
    inputs = {f"data.{partition}": _read_data(assignment, partition) for partition in (TRAIN, VAL)}
    for number in numbers:
        inputs[f"backbones.{number}"] = _identify_backbone(assignment, number)
    return Identity("evaluate", settings, inputs)


def _identify_backbone(assignment: Assignment, number: int) -> str:
    backbone = assignment.config.evaluate.backbones[number]
    if backbone.source == "random":
        return "random"
    if backbone.source == "path":
        return _hash_input(assignment, f"evaluate.backbones.{number}.path", backbone.path)
    return require_backbone(assignment, backbone).fingerprint


def require_backbone(assignment: Assignment, backbone: EvaluatedBackbone) -> Manifest:
    """Return the manifest of the run and stage that an evaluated backbone comes from."""
    stage, run = locate_backbone(assignment, backbone)
    return require_manifest(assignment, stage, run.stage(stage))


def locate_backbone(
    assignment: Assignment, backbone: EvaluatedBackbone
) -> tuple[StageName, RunDirectory]:
    """Return the stage and the run that an evaluated backbone comes from."""
    run = assignment.run.sibling(backbone.run) if backbone.run else assignment.run
    return "train" if backbone.stage == "train" else "pretext", run


def _look(config: Algorithm) -> dict[str, Any]:
    """Return how images look to a network, whatever the stage."""
    return {"mean": list(config.data.mean), "std": list(config.data.std)}


def _read_data(assignment: Assignment, partition: str) -> str:
    return read_fingerprint(assignment.run.data(partition))


def _hash_input(assignment: Assignment, where: str, path: str) -> str:
    """Return the sha256 of a file below the storage root that the run file names at `where`."""
    file = assignment.run.storage_root / path
    try:
        return compute_sha256(file)
    except IsADirectoryError:
        raise InvalidDataError(f"{where}: {file} is a folder, want a file") from None
    except OSError as error:
        check_storage(file, error)
        raise MissingInputError(
            f"{where}: {file}: {error.strerror}; paths to weights, centroids and assignments start "
            "at the storage root"
        ) from error
