"""Batches: every sample once an epoch, over all ranks, whatever was done before."""

from __future__ import annotations

import torch

from clusterfit.config.schedule import Schedule
from clusterfit.config.sections.training import Train
from clusterfit.worker.training.batches import TrainingBatches

NUM_SAMPLES, WORLD_SIZE, SIZE = 53, 3, 4
SAMPLES = torch.arange(NUM_SAMPLES) * 7  # sample indices are not positions
SCHEDULE = Schedule.plan(
    Train(epochs=2, batch_size_per_rank=SIZE, lr_milestones=()), NUM_SAMPLES, WORLD_SIZE
)


def batches(rank: int, first_step: int = 0, seed: int = 0) -> list[list[tuple[int, int]]]:
    return list(TrainingBatches(SAMPLES, SCHEDULE, seed, rank, first_step))


def test_ranks_share_an_epochs_samples_and_none_comes_twice() -> None:
    steps = SCHEDULE.steps_per_epoch
    for epoch in range(2):
        keys = [
            key
            for rank in range(WORLD_SIZE)
            for batch in batches(rank)[epoch * steps : (epoch + 1) * steps]
            for key in batch
        ]
        assert {epoch_of_key for epoch_of_key, _ in keys} == {epoch}
        indices = [index for _, index in keys]
        assert len(indices) == len(set(indices)) == steps * WORLD_SIZE * SIZE
        assert set(indices) <= set(SAMPLES.tolist())


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    steps = SCHEDULE.steps_per_epoch
    first, second = batches(0)[:steps], batches(0)[steps:]
    flat = [[index for batch in epoch for _, index in batch] for epoch in (first, second)]
    assert flat[0] != flat[1]
    assert batches(0, seed=1) != batches(0)


def test_who_begins_later_gets_what_is_left() -> None:
    for first_step in (1, SCHEDULE.steps_per_epoch, SCHEDULE.num_steps - 1):
        left = TrainingBatches(SAMPLES, SCHEDULE, 0, 1, first_step)
        assert list(left) == batches(1)[first_step:]
        assert len(list(left)) == SCHEDULE.num_steps - first_step
