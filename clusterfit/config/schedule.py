"""What follows from a recipe, the number of images and the world size.

Nothing here is stored in the run file: the worker computes it when it knows its world size, and a
plan computes it for the GPUs that were asked for. Both log it with `Schedule.reasons()`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Self

from clusterfit.config.sections.training import Optimization
from clusterfit.errors import ConfigError

REFERENCE_BATCH_SIZE: Final = 256
"""Images per step that baseLr is meant for. Source: Goyal et al., arXiv:1706.02677."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Batch, steps and learning rate of one training stage; built by `Schedule.plan`."""

    recipe: Optimization
    num_samples: int
    world_size: int
    global_batch_size: int
    """Images per step over all ranks."""
    steps_per_epoch: int
    """Whole global batches in the data set; what is left over is dropped each epoch."""
    num_steps: int
    """Steps of the whole training."""
    peak_lr: float
    """The rate after warm-up and before any decay."""
    warmup_steps: int
    """Steps that rise from baseLr to `peak_lr`; 0 where the global batch is at most 256."""

    @classmethod
    def plan(cls, recipe: Optimization, num_samples: int, world_size: int) -> Self:
        """Return the schedule of `recipe` over `num_samples` images on `world_size` ranks.

        Raises:
            ConfigError: the images do not fill one global batch, or the warm-up would not end
                before the training does.
        """
        global_batch_size = recipe.batch_size_per_rank * world_size
        if num_samples < global_batch_size:
            raise ConfigError(_describe_short_data(recipe, num_samples, world_size))
        steps_per_epoch = num_samples // global_batch_size
        warmup_steps = 0
        if global_batch_size > REFERENCE_BATCH_SIZE:
            if recipe.warmup_epochs >= recipe.epochs:
                raise ConfigError(
                    f"{recipe.section}.warmupEpochs: got {recipe.warmup_epochs:g}, want less "
                    f"than the {recipe.epochs} epochs of the training: a global batch of "
                    f"{global_batch_size} warms up because it exceeds {REFERENCE_BATCH_SIZE}"
                )
            warmup_steps = round(recipe.warmup_epochs * steps_per_epoch)
        return cls(
            recipe=recipe,
            num_samples=num_samples,
            world_size=world_size,
            global_batch_size=global_batch_size,
            steps_per_epoch=steps_per_epoch,
            num_steps=recipe.epochs * steps_per_epoch,
            peak_lr=recipe.base_lr * global_batch_size / REFERENCE_BATCH_SIZE,
            warmup_steps=warmup_steps,
        )

    @property
    def decay_steps(self) -> tuple[int, ...]:
        """0-based steps from which the rate is lower by another lrDecayFactor."""
        if self.recipe.schedule == "cosine":
            return ()
        return tuple(round(epoch * self.steps_per_epoch) for epoch in self.recipe.lr_milestones)

    def learning_rate(self, step: int) -> float:
        """Return the rate of the optimizer step with this 0-based index.

        Milestones count from the start of the training, warm-up included, and fall on the nearest
        step; a cosine covers what is left after warm-up. Source: VISSL's composite of `linear` and
        `multistep` or `cosine`, evaluated per step.

        Raises:
            IndexError: `step` is not one of this training's `num_steps`.
        """
        if not 0 <= step < self.num_steps:
            raise IndexError(f"step {step} is not one of {self.num_steps}")
        recipe = self.recipe
        if step < self.warmup_steps:
            return recipe.base_lr + (self.peak_lr - recipe.base_lr) * step / self.warmup_steps
        if recipe.schedule == "cosine":
            done = (step - self.warmup_steps) / (self.num_steps - self.warmup_steps)
            return self.peak_lr * (1 + math.cos(math.pi * done)) / 2
        num_decays = sum(step >= decay_step for decay_step in self.decay_steps)
        return self.peak_lr * recipe.lr_decay_factor**num_decays

    def reasons(self) -> dict[str, str]:
        """Return why each derived number is what it is, by field name."""
        recipe = self.recipe
        dropped = self.num_samples % self.global_batch_size
        if self.warmup_steps:
            warmup = (
                f"{recipe.warmup_epochs:g} epochs from baseLr {recipe.base_lr:g}, because the "
                f"global batch exceeds {REFERENCE_BATCH_SIZE}"
            )
        elif self.global_batch_size > REFERENCE_BATCH_SIZE:
            warmup = f"warmupEpochs is {recipe.warmup_epochs:g}"
        else:
            warmup = f"none: the global batch does not exceed {REFERENCE_BATCH_SIZE}"
        milestones = ", ".join(f"{milestone:g}" for milestone in recipe.lr_milestones)
        return {
            "global_batch_size": f"{recipe.batch_size_per_rank} per rank x {self.world_size} ranks",
            "steps_per_epoch": f"{self.num_samples} images, the last {dropped} dropped",
            "num_steps": f"{recipe.epochs} epochs x {self.steps_per_epoch} steps",
            "peak_lr": f"baseLr {recipe.base_lr:g} x {self.global_batch_size} / "
            f"{REFERENCE_BATCH_SIZE}",
            "warmup_steps": warmup,
            "decay_steps": "none: half a cosine from the peak to 0"
            if recipe.schedule == "cosine"
            else f"x {recipe.lr_decay_factor:g} at epochs {milestones}"
            if milestones
            else "none: lrMilestones is empty",
        }


def _describe_short_data(recipe: Optimization, num_samples: int, world_size: int) -> str:
    batch_size = recipe.batch_size_per_rank
    ranks = f"{world_size} rank{'s' if world_size > 1 else ''}"
    fault = (
        f"{recipe.section}.batchSizePerRank: got {batch_size} on {ranks}, a global "
        f"batch of {batch_size * world_size}, but there are only {num_samples} images; "
    )
    if num_samples < world_size:
        return fault + f"use at most {num_samples} ranks"
    return fault + f"want at most {num_samples // world_size}"
