"""The loop of every training, be it a network or heads on one: exact resume, checkpoints, metrics.

A step is a function of (weights, momentum, seed, step): order and augmentation come from the seed,
and everything that DDP decides by itself is decided before any state is loaded. So a training that
was killed and resumed ends in the same bits as one that was not, at the same world size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from safetensors.torch import save
from torch import nn

from clusterfit.artifacts.files import write_file
from clusterfit.artifacts.layout import TRAIN
from clusterfit.artifacts.manifest import Identity, write_manifest
from clusterfit.config.schedule import Schedule
from clusterfit.config.sections.training import Optimization
from clusterfit.errors import InvalidDataError, TerminatedError
from clusterfit.worker.context import Context
from clusterfit.worker.data.images import Batch, ImageSet, build_loader
from clusterfit.worker.data.unreadable import check_unreadable
from clusterfit.worker.log import ProgressReporter
from clusterfit.worker.randomness import derive_seed
from clusterfit.worker.training.batches import TrainingBatches
from clusterfit.worker.training.checkpoint import Checkpoints
from clusterfit.worker.training.epoch import EpochSums
from clusterfit.worker.training.metrics import METRICS_NAME, Metrics
from clusterfit.worker.training.stepping import Inputs, Stepper
from clusterfit.worker.training.votes import StopVotes
from clusterfit.worker.versions import read_versions

EPOCH_CHECKPOINT_SECONDS: Final = 120.0
"""An epoch's end is a checkpoint where the last one is older than this."""


@dataclass(frozen=True, slots=True)
class Training:
    """What is trained on what; the rest is the same for every training.

    Attributes:
        recipe: how.
        precision: of forward and backward.
        channels_last: whether images and convolutions are kept so.
        crop_pixels: side of the images.
        folder: where the artifact comes to stand.
        identity: of the artifact that comes out.
        facts: what its manifest says of the network, beside the training's results.
        model: on the CPU, with its initial weights.
        images: the data set, with what loaders do of the recipe's random view.
        sample_indices: (N,) int64, the samples that are trained on.
        prepare: batch -> what the network is given, and int64 targets (n,), on the device; target
            -1 counts nothing.
        evaluate: network -> more metrics of an epoch, the same on every rank.
    """

    recipe: Optimization
    precision: Literal["bf16", "fp32"]
    channels_last: bool
    crop_pixels: int
    folder: Path
    identity: Identity
    facts: Mapping[str, Any]
    model: nn.Module
    images: ImageSet
    sample_indices: torch.Tensor
    prepare: Callable[[Batch], tuple[Inputs, torch.Tensor]]
    evaluate: Callable[[nn.Module], dict[str, float]]


def fit(context: Context, training: Training) -> None:
    """Train to the end, and write model.safetensors, metrics.jsonl and the manifest.

    Raises:
        ConfigError: when the images do not fill a global batch.
        InvalidDataError: when the loss stops being finite, or too many images are unreadable.
        TerminatedError: after SIGTERM, with a checkpoint written.
    """
    torch.use_deterministic_algorithms(training.recipe.deterministic)
    trainer = _Trainer(context, training)
    trainer.resume()
    trainer.train()
    if context.env.is_main_rank:
        trainer.publish()
    context.env.barrier()


class _Trainer:
    """A training on its way: network, metrics so far, and the number of steps done."""

    def __init__(self, context: Context, training: Training) -> None:
        self._context = context
        self._training = training
        self._recipe = training.recipe
        self._folder = training.folder
        self._schedule = Schedule.plan(
            training.recipe, len(training.sample_indices), context.env.world_size
        )
        if context.env.is_main_rank:
            for name, reason in self._schedule.reasons().items():
                value = _spell(getattr(self._schedule, name))
                context.log.info("derived", name=name, value=value, because=reason)
        self._stepper = Stepper(
            training.model,
            training.recipe,
            training.precision,
            training.channels_last,
            context.env.device,
        )
        self._stepper.settle(*training.prepare(self._build_blank_batch()))
        self._checkpoints = Checkpoints(
            self._folder / "checkpoints",
            training.identity,
            training.recipe.keep_checkpoints,
            context.guard,
        )
        self._done = 0
        self._metrics = Metrics(context, self._folder)
        self._epoch = EpochSums(context.env.device)
        self._last_checkpoint = time.monotonic()
        self._last_written = 0
        self._told: set[int] = set()  # unreadable images, each once and not in every epoch

    def _build_blank_batch(self) -> Batch:
        """Return black images of the size that the training has."""
        size, side = self._recipe.batch_size_per_rank, self._training.crop_pixels
        images = torch.zeros(size, 3, side, side, dtype=torch.uint8)
        draws = torch.zeros(size, self._training.images.num_draws)
        return Batch(images, self._training.sample_indices[:size], {}, draws=draws)

    def resume(self) -> None:
        """Go on from the newest checkpoint of this training, if there is one."""
        env, log = self._context.env, self._context.log
        newest = self._checkpoints.find_newest(log) if env.is_main_rank else None
        self._done = env.broadcast_object(newest)
        if not self._done:
            return
        state = self._checkpoints.read(self._done)
        self._stepper.load(state)
        self._metrics.lines = state["metrics"]
        if env.is_main_rank:  # the sum over all ranks so far: the others go on from zero
            self._epoch.sums += state["sums"].to(env.device)
            log.info("resumed", step=self._done, total=self._schedule.num_steps)

    def train(self) -> None:
        """Take the steps that are left."""
        context, env, schedule = self._context, self._context.env, self._schedule
        seed = context.config.seed
        batches = TrainingBatches(
            self._training.sample_indices, schedule, seed, env.rank, self._done
        )
        loaders = context.config.data.loaders_per_rank
        progress = (
            ProgressReporter(context.log, schedule.num_steps, "steps", self._done)
            if env.is_main_rank
            else None
        )
        votes = StopVotes(env)
        for batch in build_loader(self._training.images, batches, loaders, env.device):
            if votes.vote():
                if self._last_written != self._done:
                    self._write_checkpoint()
                raise TerminatedError(
                    f"stopped by SIGTERM after step {self._done}; the next run goes on from there"
                )
            self._check_batch(batch)
            # Dropout and the like: the same on a resumed run, another on each rank.
            torch.manual_seed(derive_seed("step", seed, self._done, env.rank))
            inputs, targets = self._training.prepare(batch)
            rate = schedule.learning_rate(self._done)
            self._epoch.add(self._stepper.step(inputs, targets, rate), schedule.global_batch_size)
            self._done += 1
            is_epoch_end = self._done % schedule.steps_per_epoch == 0
            if is_epoch_end:
                self._end_epoch(rate)
            if progress is not None:
                progress.update(self._done)
            if self._done < schedule.num_steps and self._is_checkpoint_due(is_epoch_end):
                self._write_checkpoint()
        votes.count()  # whoever was asked to stop at the last step has nothing left to stop

    def publish(self) -> None:
        """Write the weights and, last, the manifest."""
        context, training = self._context, self._training
        weights = {
            key: value.cpu().contiguous() for key, value in self._stepper.model.state_dict().items()
        }
        write_file(self._folder / "model.safetensors", save(weights), context.guard)
        results = {
            **training.facts,
            "crop_pixels": training.crop_pixels,
            "num_samples": len(training.sample_indices),
            "global_batch_size": self._schedule.global_batch_size,
            "final": self._metrics.lines[-1],
        }
        files = ["model.safetensors", METRICS_NAME]
        write_manifest(
            self._folder, training.identity, files, results, read_versions(), context.guard
        )
        context.log.info("finished", folder=self._folder, **self._metrics.describe_final())

    def _check_batch(self, batch: Batch) -> None:
        """Tell and count unreadable images; stop where not even others could stand in for them."""
        paths = self._training.images.paths
        for sample_index, why in batch.unreadable.items():
            if sample_index not in self._told:
                self._told.add(sample_index)
                self._context.log.warning(
                    "unreadable image, another one stands in", path=paths[sample_index], why=why
                )
        self._epoch.unreadable.update(batch.unreadable)
        if len(batch.sample_indices) < self._recipe.batch_size_per_rank:
            sample_index, why = next(iter(batch.unreadable.items()))
            raise InvalidDataError(
                f"too many images in a row cannot be read, {paths[sample_index]} for one: {why}"
            )

    def _end_epoch(self, learning_rate: float) -> None:
        """Add the epoch to the metrics."""
        env = self._context.env
        epoch = self._done // self._schedule.steps_per_epoch
        # An image is met again by whoever looks for a substitute and tries it: count it once.
        unreadable = env.merge(self._epoch.unreadable)
        check_unreadable(self._context.config.data, TRAIN, self._training.images.paths, unreadable)
        loss, correct, num_images = env.sum_tensor(self._epoch.sums).tolist()
        if not loss < float("inf"):
            raise InvalidDataError(
                f"{self._recipe.section}: the loss is not finite in epoch {epoch}; a lower baseLr "
                f"may help (its peak is now {self._schedule.peak_lr:g})"
            )
        line = {
            "epoch": epoch,
            "step": self._done,
            "loss": loss / num_images,
            "accuracy": correct / num_images,
            "learning_rate": learning_rate,
            "images_per_second": self._epoch.images_per_second(),
        }
        self._metrics.add(line | self._training.evaluate(self._stepper.model))
        self._epoch = EpochSums(env.device)

    def _is_checkpoint_due(self, is_epoch_end: bool) -> bool:
        if self._done % self._recipe.checkpoint_every_steps == 0:
            return True
        age_seconds = time.monotonic() - self._last_checkpoint
        return is_epoch_end and bool(
            self._context.env.broadcast_object(age_seconds >= EPOCH_CHECKPOINT_SECONDS)
        )

    def _write_checkpoint(self) -> None:
        """Write the state after the steps done so far; every rank must call it."""
        sums = self._context.env.sum_tensor(self._epoch.sums)
        if self._context.env.is_main_rank:
            more = {"sums": sums, "metrics": self._metrics.lines}
            self._checkpoints.write(self._done, self._stepper.state() | more)
        self._last_checkpoint = time.monotonic()
        self._last_written = self._done


def _spell(value: float | tuple[int, ...]) -> float | str:
    """Return a derived value as one field of a log line."""
    return (", ".join(map(str, value)) or "none") if isinstance(value, tuple) else value
