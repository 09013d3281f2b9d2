"""Evaluate: how good several frozen backbones are, side by side, by the protocols asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from clusterfit.artifacts.dataset import read_samples
from clusterfit.artifacts.files import remove_files, write_file, write_json
from clusterfit.artifacts.layout import PARTITIONS, TRAIN, VAL
from clusterfit.artifacts.manifest import write_manifest
from clusterfit.config.sections.evaluation import EvaluatedBackbone
from clusterfit.config.sections.inputs import Weights
from clusterfit.worker.context import Context
from clusterfit.worker.data.unreadable import EXCLUDED_NAME, format_unreadable
from clusterfit.worker.identity import (
    identify_heads,
    list_targets,
    locate_backbone,
    require_backbone,
    require_weights,
)
from clusterfit.worker.limits import count_classes
from clusterfit.worker.log import ProgressReporter
from clusterfit.worker.networks.backbone import resolve_layers
from clusterfit.worker.networks.inference import FrozenBackbone, load_model
from clusterfit.worker.probes.images import LabelledImages
from clusterfit.worker.probes.layers import PooledTrunk
from clusterfit.worker.probes.multi_label import judge_svm
from clusterfit.worker.probes.one_layer import judge_knn, judge_linear
from clusterfit.worker.probes.shares import extract_share
from clusterfit.worker.probes.trained_heads import judge_heads
from clusterfit.worker.stages.judged import JudgedBackbones
from clusterfit.worker.versions import read_versions


def run(context: Context) -> None:
    """Judge each backbone on the train and val images, and write results.json."""
    config, env, log = context.config, context.env, context.log
    [(folder, identity)] = list_targets(context.assignment, env.world_size)
    samples = {partition: read_samples(context.run.data(partition)) for partition in PARTITIONS}
    num_classes = count_classes(config, samples[TRAIN], samples[VAL])
    train = LabelledImages(context, TRAIN, samples[TRAIN])
    val = LabelledImages(context, VAL, samples[VAL])
    judgements = [
        _Judgement(context, number, folder, train, val, num_classes)
        for number in range(len(config.evaluate.backbones))
    ]
    for judgement in judgements:  # on each rank: all find the same, and none waits for another
        judgement.check()
    rows = []
    judged = JudgedBackbones(context, [train, val])
    for number, judgement in enumerate(judgements):
        row = judged.find(number)
        if row is None:
            row = judgement.run()
            judged.keep(number, row)
        rows.append(row)
        if env.is_main_rank:
            log.info("result", **{key: _flatten(value) for key, value in row.items()})
    if env.is_main_rank:
        results = {
            "num_train": len(train.paths),
            "num_train_excluded": len(train.unreadable),
            "num_val": len(val.paths),
            "num_val_excluded": len(val.unreadable),
            "num_classes": num_classes,
            "backbones": rows,
        }
        write_json(context.run.results(), results, context.guard)
        files = [context.run.results().name, *_write_excluded(context, folder, [train, val])]
        judged.forget()  # a finished stage is not entered again
        write_manifest(folder, identity, files, results, read_versions(), context.guard)
        log.info(
            "finished",
            folder=folder,
            num_backbones=len(rows),
            num_val=len(val.paths),
            num_excluded=len(train.unreadable) + len(val.unreadable),
        )
    env.barrier()


class _Judgement:
    """One backbone under each protocol."""

    def __init__(
        self,
        context: Context,
        number: int,
        folder: Path,
        train: LabelledImages,
        val: LabelledImages,
        num_classes: int,
    ) -> None:
        self._context = context
        self._number = number
        self._backbone: EvaluatedBackbone = context.config.evaluate.backbones[number]
        self._folder = folder
        self._train = train
        self._val = val
        self._num_classes = num_classes

    def check(self) -> None:
        """Refuse what could not be judged, before hours of the backbones in front of it.

        Raises:
            ConfigError: when there is no such model, or it has no such layer.
            MissingInputError, InvalidDataError: when its weights are not there or do not fit.
        """
        config = self._context.config.evaluate
        model = self._load(_find_model(self._context, self._backbone), is_told=False)
        if {"linear", "knn"} & set(config.protocols):
            resolve_layers(model, [self._backbone.layer], self._name("layer"))
        if {"heads", "svm"} & set(config.protocols):
            PooledTrunk(model, config)

    def run(self) -> dict[str, Any]:
        """Return the backbone's row: what it is, and each protocol's findings."""
        name = _find_model(self._context, self._backbone)
        row: dict[str, Any] = {"label": self._backbone.label, "model": name}
        protocols = self._context.config.evaluate.protocols
        if {"linear", "knn"} & set(protocols):
            row |= self._judge_one_layer(name)
        if "heads" in protocols:
            env = self._context.env
            row["heads"] = judge_heads(
                self._context,
                self._load(name),
                self._folder / "heads" / str(self._number),
                identify_heads(self._context.assignment, self._number, env.world_size),
                self._train,
                self._val,
                self._num_classes,
            )
        if "svm" in protocols:
            row["svm"] = judge_svm(
                self._context,
                self._load(name),
                self._train,
                self._val,
                self._report_images(),
                f"svm/{self._number}",
            )
        return row

    def _judge_one_layer(self, name: str) -> dict[str, Any]:
        context, config = self._context, self._context.config.evaluate
        layer, where = self._backbone.layer, self._name("layer")
        frozen = FrozenBackbone(context, config, self._load(name), layer, "avg", where)
        progress = self._report_images()
        train, val = (
            extract_share(context, frozen, images, progress) for images in (self._train, self._val)
        )
        row: dict[str, Any] = {"layer": layer, "feature_dim": train.features.shape[1]}
        if "linear" in config.protocols:
            row["linear"] = judge_linear(context, train, val, self._train, self._num_classes)
        if "knn" in config.protocols:
            row["knn"] = judge_knn(context, train, val, self._num_classes)
        return row

    def _name(self, field: str) -> str:
        return f"evaluate.backbones.{self._number}.{field}"

    def _load(self, name: str, is_told: bool = True) -> nn.Module:
        """Return the network with its weights."""
        context, backbone = self._context, self._backbone
        weights_file: Path | None = None
        if backbone.source == "run":
            stage, run = locate_backbone(context.assignment, backbone)
            weights_file = require_weights(context.assignment, stage, run)
        elif backbone.source == "path":
            weights_file = context.run.storage_root / backbone.path
        weights = Weights(source="path", path="model")  # any file: only how keys are read counts
        recipe, where = context.config.evaluate, self._name("model")
        return load_model(name, weights_file, weights, context, recipe, where, is_told)

    def _report_images(self) -> ProgressReporter | None:
        num_images = len(self._train.paths) + len(self._val.paths)
        is_main_rank = self._context.env.is_main_rank
        return ProgressReporter(self._context.log, num_images, "images") if is_main_rank else None


def _write_excluded(context: Context, folder: Path, partitions: list[LabelledImages]) -> list[str]:
    """Name the images that could not be read in a file, where there are any; return its name."""
    lines = "".join(format_unreadable(each.paths, each.unreadable) for each in partitions)
    if not lines:
        remove_files([folder / EXCLUDED_NAME])
        return []
    write_file(folder / EXCLUDED_NAME, lines.encode(), context.guard)
    return [EXCLUDED_NAME]


def _find_model(context: Context, backbone: EvaluatedBackbone) -> str:
    if backbone.source == "run":
        return str(require_backbone(context.assignment, backbone).results["model"])
    return backbone.model


def _flatten(value: Any) -> Any:
    """Return a finding as one field of a log line."""
    if isinstance(value, dict):
        return " ".join(
            f"{key}:{_flatten(item)}" for key, item in value.items() if not isinstance(item, list)
        )
    return float(f"{value:.4f}") if isinstance(value, float) else value
