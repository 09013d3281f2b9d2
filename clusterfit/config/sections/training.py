"""How networks are trained: what pretext, train and the heads of evaluate have in common."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import model_validator

from clusterfit.config.section import OPERATIONAL, Section
from clusterfit.config.sections.values import (
    ModelName,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
)


class _Named(Section):
    """What a recipe begins with."""

    model: ModelName = "resnet50"
    """A torchvision classification model by name, or `resnet8_small` for images of some 8 to 64
    pixels."""


class Optimization(Section):
    """How anything is trained: schedule, SGD and checkpoints."""

    section: ClassVar[str]
    """What the run file calls it."""

    epochs: PositiveInt = 105
    """Passes over the images."""
    batch_size_per_rank: PositiveInt = 32
    """Images per process and step. The global batch is this times the world size."""
    base_lr: PositiveFloat = 0.1
    """Learning rate per 256 images of the global batch."""
    warmup_epochs: NonNegativeFloat = 5.0
    """Epochs over which the rate rises linearly from baseLr to its peak; only where the global
    batch exceeds 256."""
    schedule: Literal["multistep", "cosine"] = "multistep"
    """`multistep`: times lrDecayFactor at each of lrMilestones. `cosine`: half a cosine to 0."""
    lr_milestones: tuple[PositiveFloat, ...] = (30.0, 60.0, 90.0, 100.0)
    """Epochs at which a multistep schedule decays; without effect on cosine."""
    lr_decay_factor: Annotated[float, Gt(0), Lt(1)] = 0.1
    """What the rate is multiplied by at each milestone."""
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    """SGD's momentum."""
    nesterov: bool = False
    """Whether the momentum is Nesterov's."""
    weight_decay: NonNegativeFloat = 1e-4
    """L2 penalty on weights; none on batch norm and biases of it."""
    deterministic: bool = False
    """Slower kernels that give the same bits each time on a GPU; a CPU always does."""
    checkpoint_every_steps: Annotated[PositiveInt, OPERATIONAL] = 2000
    """Optimizer steps between checkpoints; one is also written at each epoch's end, at most every
    two minutes, and on SIGTERM. All ranks wait while one is written."""
    keep_checkpoints: Annotated[PositiveInt, OPERATIONAL] = 2
    """Newest checkpoints kept on disk; each holds weights and momentum, twice the model's size."""

    @model_validator(mode="after")
    def _milestones_rise_within_epochs(self) -> Self:
        if self.schedule == "multistep":
            got = f"[{', '.join(f'{epoch:g}' for epoch in self.lr_milestones)}]"
            if list(self.lr_milestones) != sorted(set(self.lr_milestones)):
                raise ValueError(f"lrMilestones: got {got}, want each above the one before")
            if self.lr_milestones and self.lr_milestones[-1] >= self.epochs:
                raise ValueError(
                    f"lrMilestones: got {got}, want all below epochs ({self.epochs}); give "
                    "milestones of your own, or schedule: cosine"
                )
        return self


class Recipe(Optimization, _Named):
    """How a network is trained: what pretext and train have in common."""

    crop_pixels: Annotated[int, Ge(8)] = 224
    """Side of the square that the network sees."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Arithmetic of forward and backward; weights and optimizer stay fp32. bf16 is autocast."""
    channels_last: Annotated[bool, OPERATIONAL] = True
    """Memory order of images and convolutions; faster on GPUs and on CPUs with bf16."""


class Pretext(Recipe):
    """RotNet: predict which of four rotations an image was turned by (Gidaris et al., 2018)."""

    section = "pretext"

    horizontal_flip: bool = True
    """Whether images are mirrored at random before they are turned."""


class Train(Recipe):
    """Step 2: a network from scratch that predicts each image's cluster."""

    section = "train"

    crop_min_scale: Annotated[float, Gt(0), Le(1)] = 0.08
    """Smallest area of a random resized crop, as a fraction of the image's."""
    color_jitter: Annotated[tuple[NonNegativeFloat, ...], Len(4, 4)] = (0.4, 0.4, 0.4, 0.2)
    """Strength of random brightness, contrast, saturation (0..1) and hue (0..0.5) changes; four
    zeros: none."""
    horizontal_flip: bool = True
    """Whether images are mirrored at random."""

    @model_validator(mode="after")
    def _hue_within_half(self) -> Self:
        if self.color_jitter[3] > 0.5:
            raise ValueError(f"colorJitter: got a hue of {self.color_jitter[3]}, want at most 0.5")
        return self
