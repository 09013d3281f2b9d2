"""VISSL's learning-rate schedulers -> a recipe's baseLr, warm-up and milestones.

What VISSL does with them is in vissl/utils/hydra_config.py, `get_scaled_lr_scheduler` and
`resolve_linear_schedule`, and is not what its files seem to say:

- With auto_scale only the first two of `values` count, as a factor, and the rest is computed.
- A warm-up's `start_value` and `end_value` are overwritten. It starts at the rate of one *node's*
  batch and ends at that of the whole batch, so one node never warms up, however large its batch,
  and two nodes of four GPUs do where one node of eight with the same batch does not.

Here the rate follows the global batch alone (Goyal et al., arXiv:1706.02677): from baseLr to its
peak, where the batch exceeds 256. The number of nodes decides nothing.
"""

from __future__ import annotations

from itertools import pairwise
from math import isfinite
from typing import Any, Final

from clusterfit.config.schedule import REFERENCE_BATCH_SIZE
from clusterfit.interop.vissl_config.reading import Reading

_LR: Final = "OPTIMIZER.param_schedulers.lr"
_SCALING: Final = f"{_LR}.auto_lr_scaling"
_WARM_UP_DIGITS: Final = 3


def read_schedule(reading: Reading, section: str) -> None:
    """Set a recipe's rate, warm-up and milestones.

    Raises:
        ConfigError: the scheduler is one that a recipe cannot express.
    """
    schedule = _read_scheduler(reading, section)
    _set_base_lr(reading, section, schedule)
    if schedule["name"] == "cosine":
        reading.set(f"{section}.schedule", "cosine")
        reading.set(f"{section}.lrMilestones", [])
    _judge_interval(reading, schedule["name"])


def _read_scheduler(reading: Reading, section: str) -> dict[str, Any]:
    """Return the scheduler proper, with the warm-up, if any, set and judged."""
    name = reading.text(f"{_LR}.name")
    if name != "composite":
        scheduler = {
            key: reading.get(f"{_LR}.{key}")
            for key in ("values", "milestones", "start_value", "end_value", "value")
        }
        scheduler["name"] = name
        reading.set(f"{section}.warmupEpochs", 0)
        reading.judge(f"{_LR}.name", f"{section}.schedule", _say_no_warmup(reading))
        _set_decay(reading, section, scheduler, 0.0, rescaled=False)
        return scheduler
    schedulers = [item for item in reading.sequence(f"{_LR}.schedulers") if isinstance(item, dict)]
    lengths = reading.sequence(f"{_LR}.lengths")
    scalings = reading.sequence(f"{_LR}.interval_scaling")
    if (
        [item.get("name") for item in schedulers][:1] != ["linear"]
        or len(schedulers) != 2
        or len(lengths) != 2
    ):
        raise reading.fault(
            f"{_LR}.schedulers", "a linear warm-up and one more scheduler, with their lengths"
        )
    if not all(_is_number(length) and 0 <= length <= 1 for length in lengths):
        raise reading.fault(f"{_LR}.lengths", "two fractions of the training")
    warmup_epochs = round(lengths[0] * reading.integer("OPTIMIZER.num_epochs"), _WARM_UP_DIGITS)
    change = _compare_warmups(reading, warmup_epochs)
    reading.carry(f"{_LR}.lengths", f"{section}.warmupEpochs", warmup_epochs, change)
    reading.judge(f"{_LR}.name", f"{section}.schedule, {section}.warmupEpochs")
    rescaled = len(scalings) == 2 and scalings[1] == "rescaled"
    if reading.is_given(f"{_LR}.interval_scaling"):
        reading.judge(f"{_LR}.interval_scaling", f"{section}.lrMilestones")
    _set_decay(reading, section, schedulers[1], lengths[0], rescaled=rescaled)
    return schedulers[1]


def _set_decay(
    reading: Reading, section: str, scheduler: dict[str, Any], warmup: float, *, rescaled: bool
) -> None:
    """Set milestones and factor; `warmup` is the fraction of the training that comes before."""
    is_composite = reading.text(f"{_LR}.name") == "composite"
    values_key = f"{_LR}.schedulers" if is_composite else f"{_LR}.values"
    name = scheduler.get("name")
    if name in {"cosine", "cosine_warmup"}:
        end = scheduler.get("end_value", 0)
        reading.judge(
            values_key, f"{section}.schedule: cosine",
            f"the cosine ends at 0, not at {end}" if end else "",
        )  # fmt: skip
        return
    if name == "constant":
        reading.carry(
            f"{_LR}.schedulers" if is_composite else f"{_LR}.value", f"{section}.lrMilestones", []
        )
        return
    values, milestones = scheduler.get("values"), scheduler.get("milestones")
    if name not in {"multistep", "step"} or not isinstance(values, list) or not values:
        raise reading.fault(f"{_LR}.name", "multistep, cosine, constant, or a warm-up before one")
    if not all(_is_number(value) and value > 0 for value in values):
        raise reading.fault(values_key, "each value a rate above 0")
    milestones = milestones if isinstance(milestones, list) and name == "multistep" else []
    if not all(_is_number(epoch) and epoch == int(epoch) for epoch in milestones):
        milestones_key = values_key if is_composite else f"{_LR}.milestones"
        raise reading.fault(milestones_key, "each milestone a whole number of epochs")
    num_epochs = reading.integer("OPTIMIZER.num_epochs")
    if name == "step":
        milestones = [num_epochs * part / len(values) for part in range(1, len(values))]
    if rescaled:
        milestones = [warmup * num_epochs + epoch * (1 - warmup) for epoch in milestones]
    if len(milestones) != len(values) - 1:
        raise reading.fault(values_key, f"{len(milestones) + 1} values for these milestones")
    reading.set(f"{section}.lrMilestones", milestones, values_key)
    if len(values) > 1:
        factor = round(values[1] / values[0], 6)
        reading.set(f"{section}.lrDecayFactor", factor, values_key)
    reading.judge(
        values_key, f"{section}.lrMilestones, {section}.lrDecayFactor",
        _compare_values(reading, values, values_key),
    )  # fmt: skip
    if not is_composite:
        reading.judge(f"{_LR}.milestones", f"{section}.lrMilestones")


def _compare_values(reading: Reading, values: list[float], key: str) -> str:
    """Say which of a multistep's values count; raise where they are no powers of one factor."""
    factors = [round(after / before, 6) for before, after in pairwise(values)]
    is_geometric = len(set(factors)) <= 1
    if reading.flag(f"{_SCALING}.auto_scale"):
        if is_geometric:
            return ""
        return f"as in VISSL with auto_scale, only the first factor counts: {factors[0]:g}"
    if not is_geometric:
        raise reading.fault(key, "each value the same fraction of the one before")
    return ""


def _set_base_lr(reading: Reading, section: str, scheduler: dict[str, Any]) -> None:
    batch = _global_batch(reading)
    ours = f"{section}.baseLr"
    if not reading.flag(f"{_SCALING}.auto_scale"):
        first = scheduler.get("values") or [scheduler.get("start_value", scheduler.get("value"))]
        peak = first[0]
        if not _is_number(peak):
            raise reading.fault(f"{_LR}.name", "a scheduler whose first rate is given")
        base = peak * REFERENCE_BATCH_SIZE / batch
        reading.carry(
            f"{_SCALING}.auto_scale", ours, base,
            f"VISSL would use a rate of {peak:g} at any batch; here the rate is for 256 images, "
            f"and is {peak:g} at this file's global batch of {batch}",
        )  # fmt: skip
        return
    base = reading.number(f"{_SCALING}.base_value")
    reference = reading.integer(f"{_SCALING}.base_lr_batch_size")
    change = ""
    if reference != REFERENCE_BATCH_SIZE:
        base = base * REFERENCE_BATCH_SIZE / reference
        change = f"per 256 images, not per {reference}"
    if reading.text(f"{_SCALING}.scaling_type") == "sqrt":
        peak = reading.number(f"{_SCALING}.base_value") * (batch / reference) ** 0.5
        base = peak * REFERENCE_BATCH_SIZE / batch
        reading.judge(
            f"{_SCALING}.scaling_type", ours,
            f"the rate follows the batch in proportion: {peak:g} at this file's global batch of "
            f"{batch}, and other than VISSL's at others",
        )  # fmt: skip
    elif reading.is_given(f"{_SCALING}.scaling_type"):
        reading.judge(f"{_SCALING}.scaling_type", ours)
    reading.carry(f"{_SCALING}.base_value", ours, base, change)
    reading.judge(f"{_SCALING}.base_lr_batch_size", ours)
    reading.judge(f"{_SCALING}.auto_scale", "the rate follows the global batch")


def _compare_warmups(reading: Reading, epochs: float) -> str:
    """Say how VISSL's warm-up at the file's own GPUs differs from ours."""
    said = "its start_value and end_value never counted in VISSL: "
    if not reading.flag(f"{_SCALING}.auto_scale"):
        return (
            "the warm-up rises from baseLr to its peak, and only where the global batch exceeds "
            f"{REFERENCE_BATCH_SIZE}; VISSL would take start_value and end_value as they are"
        )
    nodes = reading.integer("DISTRIBUTED.NUM_NODES")
    base = reading.number(f"{_SCALING}.base_value")
    reference = reading.integer(f"{_SCALING}.base_lr_batch_size")
    batch = _global_batch(reading)
    start, peak = base * batch / nodes / reference, base * batch / reference
    theirs = (
        "on one node VISSL never warms up"
        if nodes == 1
        else f"on {nodes} nodes VISSL warms up from one node's rate, {start:g}, to {peak:g}"
    )
    ours = (
        f"here {epochs:g} epochs from {base * REFERENCE_BATCH_SIZE / reference:g} to {peak:g}, "
        f"because the global batch of {batch} exceeds {REFERENCE_BATCH_SIZE}"
        if batch > REFERENCE_BATCH_SIZE
        else f"here there is none, because the global batch of {batch} does not exceed "
        f"{REFERENCE_BATCH_SIZE}"
    )
    return f"{said}{theirs}; {ours}. The number of nodes decides nothing"


def _say_no_warmup(reading: Reading) -> str:
    batch = _global_batch(reading)
    if batch <= REFERENCE_BATCH_SIZE:
        return ""
    return (
        f"no warm-up, as in the file; a global batch of {batch} would have one by Goyal et al.: "
        "set warmupEpochs to 5"
    )


def _judge_interval(reading: Reading, name: str) -> None:
    key = f"{_LR}.update_interval"
    is_same = reading.text(key) != "epoch" or name in {"multistep", "step", "constant"}
    if reading.is_given(key):
        reading.judge(
            key, "the rate is set at each step",
            "" if is_same else "VISSL sets it once an epoch",
        )  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _global_batch(reading: Reading) -> int:
    return (
        reading.integer("DATA.TRAIN.BATCHSIZE_PER_REPLICA")
        * reading.integer("DISTRIBUTED.NUM_NODES")
        * reading.integer("DISTRIBUTED.NUM_PROC_PER_NODE")
    )
