"""Which image is in which batch: the order of each epoch, and every rank's share of it."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from clusterfit.config.schedule import Schedule
from clusterfit.worker.data.images import Key
from clusterfit.worker.randomness import permute


class TrainingBatches:
    """Keys of this rank's batches from `first_step` to the end of the last epoch."""

    def __init__(
        self,
        sample_indices: torch.Tensor,
        schedule: Schedule,
        seed: int,
        rank: int,
        first_step: int,
    ) -> None:
        self._sample_indices = sample_indices
        self._schedule = schedule
        self._seed = seed
        self._rank = rank
        self._first_step = first_step

    def __iter__(self) -> Iterator[list[Key]]:
        schedule = self._schedule
        size = schedule.recipe.batch_size_per_rank
        step = self._first_step
        while step < schedule.num_steps:
            epoch, first = divmod(step, schedule.steps_per_epoch)
            permutation = permute(len(self._sample_indices), "order", self._seed, epoch)
            order = self._sample_indices[permutation]
            for number in range(first, schedule.steps_per_epoch):
                start = number * schedule.global_batch_size + self._rank * size
                yield [(epoch, index) for index in order[start : start + size].tolist()]
                step += 1
