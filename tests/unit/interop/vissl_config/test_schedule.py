"""The learning rates of an imported step 2: the paper's rule at any number of nodes and GPUs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clusterfit.config.schedule import Schedule
from clusterfit.config.sections.training import Recipe
from clusterfit.interop.vissl_config.conversion import convert
from clusterfit.interop.vissl_config.reading import Outcome
from tests.unit.interop.vissl_config.conftest import (
    LABELS,
    ROTNET,
    STEP2,
    Variant,
    refusal,
    verdict_on,
)

NUM_IMAGES = 1_281_167
LR = "config.OPTIMIZER.param_schedulers.lr"


def plan(recipe: Recipe, world_size: int) -> Schedule:
    return Schedule.plan(recipe, NUM_IMAGES, world_size)


def paper_rate(batch: int, epoch: float) -> float:
    """0.1 per 256 images; 5 epochs from 0.1 to it above 256; a tenth after 30, 60, 90, 100."""
    peak = 0.1 * batch / 256
    if batch > 256 and epoch < 5:
        return 0.1 + (peak - 0.1) * epoch / 5
    return peak * 0.1 ** sum(epoch >= milestone for milestone in (30, 60, 90, 100))


@pytest.mark.parametrize(
    ("nodes", "processes", "batch"),
    [(1, 8, 32), (1, 1, 32), (1, 8, 64), (4, 8, 32), (2, 4, 32)],
    ids=["1x8x32", "1x1x32", "1x8x64", "4x8x32", "2x4x32"],
)
def test_effective_rates_follow_the_paper(nodes: int, processes: int, batch: int) -> None:
    conversion = convert(
        STEP2,
        [LABELS, f"config.DISTRIBUTED.NUM_NODES={nodes}",
         f"config.DISTRIBUTED.NUM_PROC_PER_NODE={processes}",
         f"config.DATA.TRAIN.BATCHSIZE_PER_REPLICA={batch}"],
    )  # fmt: skip
    platform = conversion.run_file.platform
    assert platform.gpus == nodes * processes
    schedule = plan(conversion.run_file.train, platform.gpus)
    assert schedule.global_batch_size == nodes * processes * batch
    for epoch in (0, 1, 2.5, 4.9, 6, 29.9, 31, 59, 61, 89, 91, 99, 101, 104.9):
        step = round(epoch * schedule.steps_per_epoch)
        wanted = paper_rate(schedule.global_batch_size, step / schedule.steps_per_epoch)
        assert schedule.learning_rate(step) == pytest.approx(wanted, rel=1e-9), epoch


@pytest.mark.parametrize(
    ("nodes", "processes", "batch", "theirs", "ours"),
    [
        (1, 8, 32, "on one node VISSL never warms up", "here there is none"),
        (1, 8, 64, "on one node VISSL never warms up", "here 5 epochs from 0.1 to 0.2"),
        (2, 4, 32, "from one node's rate, 0.05, to 0.1", "here there is none"),
        (4, 8, 32, "from one node's rate, 0.1, to 0.4", "here 5 epochs from 0.1 to 0.4"),
    ],
)
def test_the_warm_up_that_followed_the_nodes_is_explained(
    nodes: int, processes: int, batch: int, theirs: str, ours: str
) -> None:
    conversion = convert(
        STEP2,
        [LABELS, f"config.DISTRIBUTED.NUM_NODES={nodes}",
         f"config.DISTRIBUTED.NUM_PROC_PER_NODE={processes}",
         f"config.DATA.TRAIN.BATCHSIZE_PER_REPLICA={batch}"],
    )  # fmt: skip
    verdict = verdict_on(conversion, f"{LR}.lengths")
    assert verdict.outcome is Outcome.CHANGED
    assert "start_value and end_value never counted" in verdict.reason
    assert theirs in verdict.reason
    assert ours in verdict.reason
    # As a comment, it is wrapped: the words are there in their order.
    comments = " ".join(line.strip().lstrip("# ") for line in conversion.text.splitlines())
    assert theirs in comments


def test_rotnet_has_no_warm_up_and_says_where_one_is_due() -> None:
    one = convert(ROTNET)
    assert plan(one.run_file.pretext, 8).warmup_steps == 0
    assert verdict_on(one, f"{LR}.name").outcome is Outcome.TAKEN
    four = convert(ROTNET, ["config.DISTRIBUTED.NUM_NODES=4"])
    schedule = plan(four.run_file.pretext, 32)
    assert (schedule.peak_lr, schedule.warmup_steps) == (0.4, 0)
    assert "set warmupEpochs to 5" in verdict_on(four, f"{LR}.name").reason


def test_a_rate_that_is_not_scaled_is_the_same_at_the_files_own_batch() -> None:
    conversion = convert(
        ROTNET, [f"{LR}.auto_lr_scaling.auto_scale=False", "config.DISTRIBUTED.NUM_NODES=4"]
    )
    assert plan(conversion.run_file.pretext, 32).peak_lr == pytest.approx(0.1)
    assert "at any batch" in verdict_on(conversion, f"{LR}.auto_lr_scaling.auto_scale").reason


def test_a_square_root_is_the_same_at_the_files_own_batch() -> None:
    conversion = convert(
        ROTNET, [f"{LR}.auto_lr_scaling.scaling_type=sqrt", "config.DISTRIBUTED.NUM_NODES=4"]
    )
    assert plan(conversion.run_file.pretext, 32).peak_lr == pytest.approx(0.2)
    assert verdict_on(conversion, f"{LR}.auto_lr_scaling.scaling_type").outcome is Outcome.CHANGED


def test_another_reference_batch() -> None:
    conversion = convert(ROTNET, [f"{LR}.auto_lr_scaling.base_lr_batch_size=1024"])
    assert conversion.run_file.pretext.base_lr == pytest.approx(0.025)


def test_values_count_as_one_factor() -> None:
    scaled = convert(ROTNET, [f"{LR}.values=[0.1,0.02,0.01,0.001,0.0001]"])
    assert scaled.run_file.pretext.lr_decay_factor == 0.2
    assert "only the first factor counts: 0.2" in verdict_on(scaled, f"{LR}.values").reason
    fault = refusal(
        ROTNET, f"{LR}.values=[0.1,0.02,0.01,0.001,0.0001]",
        f"{LR}.auto_lr_scaling.auto_scale=False",
    )  # fmt: skip
    assert "each value the same fraction" in fault
    assert "want 5 values for these milestones" in refusal(ROTNET, f"{LR}.values=[0.1,0.01]")


def test_a_cosine_after_a_warm_up(variant: Variant) -> None:
    old = """          - name: multistep
            values: [0.1, 0.01, 0.001, 0.0001, 0.00001]
            milestones: [30, 60, 90, 100]
"""
    file = variant(STEP2, old, "          - {name: cosine, start_value: 0.1, end_value: 0.001}\n")
    conversion = convert(file, [LABELS])
    recipe = conversion.run_file.train
    assert (recipe.schedule, recipe.warmup_epochs, recipe.base_lr) == ("cosine", 5.0, 0.1)
    assert "ends at 0, not at 0.001" in verdict_on(conversion, f"{LR}.schedulers").reason
    assert "once an epoch" in verdict_on(conversion, f"{LR}.update_interval").reason


def test_milestones_of_a_rescaled_part_count_from_its_beginning(variant: Variant) -> None:
    file = variant(STEP2, "[rescaled, fixed]", "[rescaled, rescaled]")
    milestones = convert(file, [LABELS]).run_file.train.lr_milestones
    warmup = 0.047619
    assert milestones == pytest.approx(
        [105 * warmup + epoch * (1 - warmup) for epoch in (30, 60, 90, 100)]
    )


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("milestones=[30,60.5,90,100]", "got [30, 60.5, 90, 100], want each milestone a"),
        ("milestones=[30,sixty,90,100]", "want each milestone a whole number of epochs"),
        ("values=[0.1,x,0.001,0.0001,0.00001]", "want each value a rate above 0"),
        ("values=[0.0,0.01,0.001,0.0001,0.00001]", "want each value a rate above 0"),
    ],
)
def test_what_is_no_schedule_is_refused_in_one_line(override: str, wanted: str) -> None:
    assert wanted in refusal(ROTNET, f"{LR}.{override}")


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("milestones: [30, 60, 90, 100]", "milestones: [30, 60, 90, x]", "each milestone a whole"),
        ("[0.047619, ", "[five, ", "lengths: got .*, want two fractions of the training"),
    ],
)
def test_what_is_no_part_of_a_composite_is_refused(
    variant: Variant, old: str, new: str, wanted: str
) -> None:
    assert re.search(wanted, refusal(variant(STEP2, old, new), LABELS))


def test_an_overlay_replaces_the_schedule(tmp_path: Path) -> None:
    recipe = convert(ROTNET, ["+config/pretrain/rotnet/optimization=8gpu_ep35"]).run_file.pretext
    assert (recipe.epochs, recipe.lr_milestones, recipe.lr_decay_factor) == (35, (10, 20), 0.1)
