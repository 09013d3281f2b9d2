"""The training loop that pretext and train share: DDP, exact resume, checkpoints, metrics.

A step is a function of (weights, momentum, seed, step): order and augmentation come from the seed,
and everything that DDP decides by itself is decided before any state is loaded. So a training that
was killed and resumed ends in the same bits as one that was not, at the same world size.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from safetensors.torch import save
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from clusterfit.artifacts.files import write_file
from clusterfit.artifacts.manifest import Identity, write_manifest
from clusterfit.config.schedule import Schedule
from clusterfit.config.tree import Pretext, Train
from clusterfit.errors import InvalidDataError, TerminatedError
from clusterfit.worker.checkpoint import Checkpoints
from clusterfit.worker.context import Context
from clusterfit.worker.images import Batch, ImageSet, Key, build_loader
from clusterfit.worker.log import ProgressReporter
from clusterfit.worker.randomness import derive_seed, permute
from clusterfit.worker.versions import read_versions
from clusterfit.worker.views import choose_memory_format

EPOCH_CHECKPOINT_SECONDS: Final = 30.0
"""An epoch's end is a checkpoint where the last one is older than this."""

_FINAL_METRICS: Final[tuple[str, ...]] = (
    "loss",
    "accuracy",
    "held_out_accuracy",
    "images_per_second",
)

_WARM_UP_STEPS: Final = 2
"""DDP rebuilds its buckets on the forward after the first backward."""


@dataclass(frozen=True, slots=True)
class Training:
    """What is trained on what; the rest is the same for every training.

    Attributes:
        recipe: how.
        identity: of the artifact that comes out.
        model: on the CPU, with its initial weights.
        images: the data set, with the recipe's random view.
        sample_indices: (N,) int64, the samples that are trained on.
        prepare: batch -> normalised images (n, 3, s, s) and int64 targets (n,) on the device;
            target -1 counts nothing.
        evaluate: network -> more metrics of an epoch, the same on every rank.
    """

    recipe: Pretext | Train
    identity: Identity
    model: nn.Module
    images: ImageSet
    sample_indices: torch.Tensor
    prepare: Callable[[Batch], tuple[torch.Tensor, torch.Tensor]]
    evaluate: Callable[[nn.Module], dict[str, float]]


def fit(context: Context, training: Training) -> None:
    """Train to the end, and write model.safetensors, metrics.jsonl and the manifest."""
    env, log, recipe = context.env, context.log, training.recipe
    stage = training.identity.stage
    folder = context.run.stage(stage)
    schedule = Schedule.plan(recipe, len(training.sample_indices), env.world_size)
    if env.is_main_rank:
        _tell_schedule(context, schedule)
    torch.use_deterministic_algorithms(recipe.deterministic)

    network, optimizer = _build(context, training)
    checkpoints = Checkpoints(
        folder / "checkpoints", training.identity.fingerprint, recipe.keep_checkpoints,
        context.guard,
    )  # fmt: skip
    first_step = env.broadcast_object(checkpoints.find_newest(log) if env.is_main_rank else None)
    sums = torch.zeros(3, dtype=torch.float64, device=env.device)  # loss, correct, images
    metrics: list[dict[str, Any]] = []
    if first_step:
        state = checkpoints.read(first_step)
        network.module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        metrics = state["metrics"]
        if env.is_main_rank:  # the sum over ranks so far; the others go on from zero
            sums += state["sums"].to(env.device)
            log.info("resumed", step=first_step, total=schedule.num_steps)

    def write_checkpoint(step: int) -> None:
        """Write the state after `step` steps; every rank must call it."""
        total = env.sum_tensor(sums)
        if env.is_main_rank:
            checkpoints.write(
                step,
                {
                    "model": network.module.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "sums": total,
                    "metrics": metrics,
                },
            )

    batches = _TrainingBatches(
        training.sample_indices, schedule, context.config.seed, env.rank, first_step
    )
    loader = build_loader(
        training.images, batches, context.config.data.loaders_per_rank, env.device
    )
    progress = ProgressReporter(log, schedule.num_steps, "steps", first_step) if (
        env.is_main_rank
    ) else None  # fmt: skip
    last_checkpoint = epoch_start = time.monotonic()
    images_seen = 0
    num_unreadable = 0
    network.train()
    for step, batch in enumerate(loader, start=first_step):
        if env.agree_to_stop():
            write_checkpoint(step)
            raise TerminatedError(f"stopped by SIGTERM after step {step}; the next run goes on")
        num_unreadable += _tell_unreadable(context, batch)
        if len(batch.sample_indices) < recipe.batch_size_per_rank:
            raise InvalidDataError(_explain_unreadable(batch))
        learning_rate = schedule.learning_rate(step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        # Dropout and the like: the same on a resumed run, another on each rank.
        torch.manual_seed(derive_seed("step", context.config.seed, step, env.rank))
        images, targets = training.prepare(batch)
        sums += _step(network, optimizer, images, targets, recipe.precision)
        images_seen += schedule.global_batch_size

        done = step + 1
        is_epoch_end = done % schedule.steps_per_epoch == 0
        if is_epoch_end:
            epoch = done // schedule.steps_per_epoch
            _check_unreadable(context, num_unreadable, len(training.sample_indices))
            num_unreadable = 0
            total = env.sum_tensor(sums)
            sums.zero_()
            if not total.isfinite().all():
                raise InvalidDataError(
                    f"{stage}: the loss is not finite in epoch {epoch}; a lower {stage}.baseLr "
                    f"may help (its peak is now {schedule.peak_lr:g})"
                )
            metrics.append(
                {
                    "epoch": epoch,
                    "step": done,
                    "loss": float(total[0] / total[2]),
                    "accuracy": float(total[1] / total[2]),
                    "learning_rate": learning_rate,
                    "images_per_second": images_seen / (time.monotonic() - epoch_start),
                }
                | training.evaluate(network.module)
            )
            network.train()
            if env.is_main_rank:
                lines = "".join(json.dumps(line) + "\n" for line in metrics)
                write_file(folder / "metrics.jsonl", lines.encode(), context.guard)
                log.info("epoch", **_round(metrics[-1]))
            epoch_start, images_seen = time.monotonic(), 0
        if progress is not None:
            progress.update(done)
        now = time.monotonic()
        is_due = is_epoch_end and env.broadcast_object(
            now - last_checkpoint >= EPOCH_CHECKPOINT_SECONDS
        )
        if done < schedule.num_steps and (is_due or done % recipe.checkpoint_every_steps == 0):
            write_checkpoint(done)
            last_checkpoint = now

    if env.is_main_rank:
        state = {key: value.cpu().contiguous() for key, value in
                 network.module.state_dict().items()}  # fmt: skip
        write_file(folder / "model.safetensors", save(state), context.guard)
        results = {
            "model": recipe.model,
            "num_classes": _count_classes(state),
            "crop_pixels": recipe.crop_pixels,
            "num_samples": len(training.sample_indices),
            "global_batch_size": schedule.global_batch_size,
            "final": metrics[-1],
        }
        write_manifest(
            folder, training.identity, ["model.safetensors", "metrics.jsonl"], results,
            read_versions(), context.guard,
        )  # fmt: skip
        told = {key: metrics[-1][key] for key in _FINAL_METRICS if key in metrics[-1]}
        log.info("finished", folder=folder, **_round(told))
    env.barrier()


class _TrainingBatches:
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

    def __len__(self) -> int:
        return self._schedule.num_steps - self._first_step

    def __iter__(self) -> Iterator[list[Key]]:
        schedule = self._schedule
        size = schedule.recipe.batch_size_per_rank
        step = self._first_step
        while step < schedule.num_steps:
            epoch, first = divmod(step, schedule.steps_per_epoch)
            order = self._sample_indices[
                permute(len(self._sample_indices), "order", self._seed, epoch)
            ]
            for number in range(first, schedule.steps_per_epoch):
                start = number * schedule.global_batch_size + self._rank * size
                yield [(epoch, index) for index in order[start : start + size].tolist()]
                step += 1


def _build(
    context: Context, training: Training
) -> tuple[DistributedDataParallel, torch.optim.Optimizer]:
    """Return network and optimizer, with DDP's buckets in their final order."""
    recipe, device = training.recipe, context.env.device
    memory_format = choose_memory_format(recipe.channels_last)
    model = training.model.to(device).to(memory_format=memory_format)
    optimizer = torch.optim.SGD(
        _group_parameters(model, recipe.weight_decay),
        lr=recipe.base_lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        fused=True,
    )
    network = DistributedDataParallel(
        model, device_ids=[device.index] if device.type == "cuda" else None
    )
    # After its first backward DDP rebuilds its buckets in the order in which gradients came, and
    # with them the order of sums. Let it happen before the state that counts is loaded, so that a
    # resumed run sums as an undisturbed one. (With two ranks a sum has but one order.)
    initial = {key: value.clone() for key, value in model.state_dict().items()}
    side = recipe.crop_pixels
    images = torch.zeros(recipe.batch_size_per_rank, 3, side, side, device=device)
    images = images.contiguous(memory_format=memory_format)
    targets = torch.zeros(recipe.batch_size_per_rank, dtype=torch.int64, device=device)
    network.train()
    for _ in range(_WARM_UP_STEPS):
        _backward(network, images, targets, recipe.precision)
    optimizer.zero_grad(set_to_none=True)
    model.load_state_dict(initial)
    return network, optimizer


def _group_parameters(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups: weights with decay, parameters of normalisations without."""
    norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
    undecayed = {
        parameter
        for module in model.modules()
        if isinstance(module, norms)
        for parameter in module.parameters(recurse=False)
    }
    decayed = [parameter for parameter in model.parameters() if parameter not in undecayed]
    ordered = [parameter for parameter in model.parameters() if parameter in undecayed]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": ordered, "weight_decay": 0.0},
    ]


def _backward(
    network: nn.Module, images: torch.Tensor, targets: torch.Tensor, precision: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (n, num_classes) logits and the mean loss, with gradients accumulated."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        logits = network(images)
    loss = functional.cross_entropy(logits.float(), targets, ignore_index=-1)
    loss.backward()
    return logits, loss


def _step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    targets: torch.Tensor,
    precision: str,
) -> torch.Tensor:
    """Take one optimizer step and return (3,) sums of loss, correct predictions and images."""
    optimizer.zero_grad(set_to_none=True)
    logits, loss = _backward(network, images, targets, precision)
    optimizer.step()
    num_images = torch.tensor(float(len(targets)), device=targets.device)
    correct = (logits.detach().argmax(1) == targets).sum()
    return torch.stack([loss.detach().double() * num_images, correct.double(), num_images.double()])


def _tell_schedule(context: Context, schedule: Schedule) -> None:
    for name, reason in schedule.reasons().items():
        value = getattr(schedule, name)
        context.log.info("derived", name=name, value=value, because=reason)


def _tell_unreadable(context: Context, batch: Batch) -> int:
    for sample_index, why in batch.unreadable.items():
        context.log.warning(
            "unreadable image, another one stands in", sample_index=sample_index, why=why
        )
    return len(batch.unreadable)


def _check_unreadable(context: Context, num_unreadable: int, num_samples: int) -> None:
    """Raise InvalidDataError when an epoch met too many unreadable images."""
    total = int(context.env.sum_tensor(torch.tensor([num_unreadable])).item())
    limit = context.config.data.max_unreadable_fraction
    if total > limit * num_samples:
        raise InvalidDataError(
            f"{total} of {num_samples} images cannot be read, more than "
            f"data.maxUnreadableFraction ({limit:g}); mend or remove them, or raise the limit"
        )


def _explain_unreadable(batch: Batch) -> str:
    sample_index, why = next(iter(batch.unreadable.items()))
    return f"too many images in a row cannot be read, sample {sample_index} for one: {why}"


def _count_classes(state: dict[str, torch.Tensor]) -> int:
    """Return the size of the head: the last weight of a state dict is its matrix."""
    return next(len(value) for key, value in reversed(state.items()) if key.endswith("weight"))


def _round(metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        key: float(f"{value:.4g}") if isinstance(value, float) else value
        for key, value in metrics.items()
    }
