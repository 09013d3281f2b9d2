"""The schedule against VISSL's recipe by hand, torch's schedulers, and what always holds."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clusterfit.config.schedule import Schedule
from clusterfit.config.sections.training import Pretext, Train
from clusterfit.errors import ConfigError

IMAGENET = 1_281_167


@pytest.mark.parametrize(
    ("batch_size_per_rank", "world_size", "steps_per_epoch", "peak_lr", "warmup_steps"),
    [
        (32, 8, 5004, 0.1, 0),
        (32, 1, 40036, 0.0125, 0),
        (64, 8, 2502, 0.2, 12510),
        (32, 32, 1251, 0.4, 6255),
        (33, 8, 4852, 0.103125, 24260),
    ],
)
def test_vissl_recipe_scales_with_the_global_batch(
    batch_size_per_rank: int,
    world_size: int,
    steps_per_epoch: int,
    peak_lr: float,
    warmup_steps: int,
) -> None:
    schedule = Schedule.plan(Train(batch_size_per_rank=batch_size_per_rank), IMAGENET, world_size)
    assert schedule.global_batch_size == batch_size_per_rank * world_size
    assert schedule.steps_per_epoch == steps_per_epoch
    assert schedule.num_steps == 105 * steps_per_epoch
    assert schedule.peak_lr == pytest.approx(peak_lr)
    assert schedule.warmup_steps == warmup_steps


def test_vissl_multistep_rates_at_every_edge() -> None:
    schedule = Schedule.plan(Train(), IMAGENET, 32)
    per_epoch = schedule.steps_per_epoch
    rates = {
        0: 0.1,
        5 * per_epoch // 2: 0.25,
        5 * per_epoch: 0.4,
        30 * per_epoch - 1: 0.4,
        30 * per_epoch: 0.04,
        60 * per_epoch - 1: 0.04,
        60 * per_epoch: 0.004,
        90 * per_epoch: 0.0004,
        100 * per_epoch - 1: 0.0004,
        100 * per_epoch: 0.00004,
        105 * per_epoch - 1: 0.00004,
    }
    for step, rate in rates.items():
        assert schedule.learning_rate(step) == pytest.approx(rate, rel=1e-3), step


def _rates_of_torch(schedule: Schedule, build: Any, base_lr: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base_lr)
    scheduler = build(optimizer)
    rates = []
    with warnings.catch_warnings():
        # SequentialLR passes the deprecated epoch argument to the schedulers it holds.
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(schedule.num_steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    return rates


def test_multistep_equals_torch_without_warm_up() -> None:
    recipe = Train(epochs=6, lr_milestones=(2.0, 3.5, 5.0), lr_decay_factor=0.3, base_lr=0.2)
    schedule = Schedule.plan(recipe, 10 * 256, 8)
    expected = _rates_of_torch(
        schedule,
        lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [20, 35, 50], gamma=0.3),
        base_lr=0.2,
    )
    assert [schedule.learning_rate(step) for step in range(60)] == pytest.approx(expected)


def test_cosine_after_warm_up_equals_torch() -> None:
    recipe = Pretext(epochs=7, schedule="cosine", warmup_epochs=2.0, base_lr=0.1)
    schedule = Schedule.plan(recipe, 10 * 512, 16)
    assert schedule.warmup_steps == 20

    def build(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.SequentialLR(
            optimizer,
            [
                torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.5, total_iters=20),
                torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50),
            ],
            milestones=[20],
        )

    expected = _rates_of_torch(schedule, build, base_lr=0.2)
    assert [schedule.learning_rate(step) for step in range(70)] == pytest.approx(expected)


@given(
    batch_size_per_rank=st.integers(1, 300),
    world_size=st.integers(1, 64),
    num_epochs=st.integers(6, 20),
    num_samples=st.integers(0, 60_000),
    cosine=st.booleans(),
)
def test_rates_rise_to_the_peak_then_never_rise_again(
    batch_size_per_rank: int, world_size: int, num_epochs: int, num_samples: int, cosine: bool
) -> None:
    recipe = Train(
        epochs=num_epochs,
        batch_size_per_rank=batch_size_per_rank,
        schedule="cosine" if cosine else "multistep",
        lr_milestones=(1.3, 5.7),
    )
    global_batch_size = batch_size_per_rank * world_size
    if num_samples < global_batch_size:
        with pytest.raises(ConfigError, match=r"^train\.batchSizePerRank: got "):
            Schedule.plan(recipe, num_samples, world_size)
        return
    schedule = Schedule.plan(recipe, num_samples, world_size)
    assert (schedule.warmup_steps > 0) == (global_batch_size > 256)
    steps = range(0, schedule.num_steps, max(1, schedule.num_steps // 200))
    rates = [schedule.learning_rate(step) for step in steps]
    warm = [rate for step, rate in zip(steps, rates, strict=True) if step < schedule.warmup_steps]
    rest = rates[len(warm) :]
    assert warm == sorted(warm)
    assert rest == sorted(rest, reverse=True)
    assert all(0 < rate <= schedule.peak_lr for rate in rates)


@given(world_size=st.sampled_from([1, 2, 4, 8, 16]))
def test_only_the_global_batch_counts_not_how_ranks_share_it(world_size: int) -> None:
    one = Schedule.plan(Train(batch_size_per_rank=512), IMAGENET, 1)
    many = Schedule.plan(Train(batch_size_per_rank=512 // world_size), IMAGENET, world_size)
    assert many.num_steps == one.num_steps
    for step in range(0, one.num_steps, 9973):
        assert many.learning_rate(step) == one.learning_rate(step)


def test_too_few_images_name_the_largest_batch_that_fits() -> None:
    with pytest.raises(ConfigError) as caught:
        Schedule.plan(Pretext(), 100, 8)
    assert caught.value.faults == (
        "pretext.batchSizePerRank: got 32 on 8 ranks, a global batch of 256, "
        "but there are only 100 images; want at most 12",
    )
    assert Schedule.plan(Pretext(batch_size_per_rank=12), 100, 8).steps_per_epoch == 1
    with pytest.raises(ConfigError, match="use at most 3 ranks"):
        Schedule.plan(Pretext(), 3, 8)


def test_a_warm_up_that_never_ends_is_refused_only_where_it_acts() -> None:
    recipe = Train(epochs=5, lr_milestones=())
    Schedule.plan(recipe, 10_000, 8)
    with pytest.raises(ConfigError, match=r"^train\.warmupEpochs: got 5, want less than the 5 "):
        Schedule.plan(recipe, 10_000, 16)


def test_steps_outside_the_training_are_refused() -> None:
    schedule = Schedule.plan(Train(), IMAGENET, 8)
    for step in (-1, schedule.num_steps):
        with pytest.raises(IndexError):
            schedule.learning_rate(step)


def test_every_derived_number_has_its_reason() -> None:
    assert Schedule.plan(Train(), IMAGENET, 32).reasons() == {
        "global_batch_size": "32 per rank x 32 ranks",
        "steps_per_epoch": "1281167 images, the last 143 dropped",
        "num_steps": "105 epochs x 1251 steps",
        "peak_lr": "baseLr 0.1 x 1024 / 256",
        "warmup_steps": "5 epochs from baseLr 0.1, because the global batch exceeds 256",
        "decay_steps": "x 0.1 at epochs 30, 60, 90, 100",
    }
    small = Schedule.plan(Train(), IMAGENET, 8).reasons()
    assert small["warmup_steps"] == "none: the global batch does not exceed 256"
    without = Schedule.plan(Train(warmup_epochs=0), IMAGENET, 16).reasons()
    assert without["warmup_steps"] == "warmupEpochs is 0"
    cosine = Schedule.plan(Train(schedule="cosine"), IMAGENET, 8).reasons()
    assert cosine["decay_steps"] == "none: half a cosine from the peak to 0"


def test_decay_steps_are_where_the_rate_falls() -> None:
    schedule = Schedule.plan(Train(lr_milestones=(30.0, 60.5)), IMAGENET, 32)
    assert schedule.decay_steps == (37530, 75686)  # 60.5 x 1251 = 75685.5
    for step in schedule.decay_steps:
        assert schedule.learning_rate(step) < 0.2 * schedule.learning_rate(step - 1)
    assert Schedule.plan(Train(schedule="cosine"), IMAGENET, 32).decay_steps == ()


PAPER = (
    # nodes, processes, batch per process: peak, steps per epoch, warm-up steps, decay steps.
    (1, 8, 32, 0.1, 5004, 0, (150120, 300240, 450360, 500400)),
    (1, 1, 32, 0.0125, 40036, 0, (1201080, 2402160, 3603240, 4003600)),
    (1, 8, 64, 0.2, 2502, 12510, (75060, 150120, 225180, 250200)),
    (4, 8, 32, 0.4, 1251, 6255, (37530, 75060, 112590, 125100)),
    (2, 4, 32, 0.1, 5004, 0, (150120, 300240, 450360, 500400)),
)


@pytest.mark.parametrize(("nodes", "processes", "batch", "peak", "steps", "warmup", "decay"), PAPER)
def test_rates_follow_the_papers_rule_at_every_layout(
    nodes: int, processes: int, batch: int, peak: float, steps: int, warmup: int,
    decay: tuple[int, ...],
) -> None:  # fmt: skip
    """0.1 for a batch of 256, in proportion; 5 epochs of warm-up above, whatever the nodes."""
    schedule = Schedule.plan(Train(batch_size_per_rank=batch), IMAGENET, nodes * processes)
    assert schedule.peak_lr == pytest.approx(0.1 * nodes * processes * batch / 256) == peak
    assert (schedule.steps_per_epoch, schedule.warmup_steps) == (steps, warmup)
    assert schedule.decay_steps == decay
    after = [schedule.learning_rate(step) for step in decay]
    assert after == pytest.approx([peak / 10, peak / 100, peak / 1000, peak / 10000])
    assert schedule.learning_rate(0) == (0.1 if warmup else peak)
    assert schedule.learning_rate(warmup) == peak
