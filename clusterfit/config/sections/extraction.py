"""How features are extracted: the view of an image, the network, its layer."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from annotated_types import Ge
from pydantic import model_validator

from clusterfit.config.section import OPERATIONAL, Section
from clusterfit.config.sections.inputs import Weights
from clusterfit.config.sections.values import LayerName, ModelName, PositiveInt


class CenterView(Section):
    """How an image is brought to the network's size where nothing is random."""

    resize_pixels: Annotated[int, Ge(8)] = 256
    """The shorter side is scaled to this."""
    crop_pixels: Annotated[int, Ge(8)] = 224
    """Side of the square cut from the middle."""
    batch_size_per_rank: Annotated[PositiveInt, OPERATIONAL] = 64
    """Images per process and forward pass; more costs memory."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Arithmetic of the forward pass; bf16 is about twice as fast where the machine has it."""
    channels_last: Annotated[bool, OPERATIONAL] = True
    """Memory order of images and convolutions; faster on GPUs and on CPUs with bf16."""
    fold_batch_norm: Annotated[bool, OPERATIONAL] = True
    """Whether batch norms are folded into the convolutions before them; about 10 % faster, equal
    up to rounding."""

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.crop_pixels > self.resize_pixels:
            raise ValueError(
                f"cropPixels: got {self.crop_pixels}, want at most resizePixels "
                f"({self.resize_pixels})"
            )
        return self


class Extract(CenterView):
    """Step 1, first half: features of every image, from one layer of a pre-trained network."""

    model: ModelName = "resnet50"
    """A torchvision classification model by name, or `resnet8_small`; train.model may be
    another."""
    weights: Weights = Weights()
    layer: LayerName = "res5avg"
    """Any layer of the model by its dotted name, or VISSL's conv1, res1..res5, res5avg,
    flatten."""
    pooling: Literal["avg", "max", "none"] = "avg"
    """What becomes of a layer's spatial or token axes; `none` keeps all of them, flattened."""
    normalize: bool = False
    """Whether each row is divided by its L2 norm as it is written."""
    dtype: Literal["float16", "float32"] = "float16"
    """Numbers in the parts: 2 or 4 bytes each. ImageNet at 2048 features: 5.2 or 10.5 GB."""
    rows_per_part: PositiveInt = 8192
    """Images per part file, the unit of work that a rank claims and that a restart redoes."""
