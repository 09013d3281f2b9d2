"""How good a backbone is: which ones are judged, and by which protocols."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Gt, Le, Len
from pydantic import Field, StringConstraints, model_validator

from clusterfit.config.section import Section
from clusterfit.config.sections.extraction import CenterView
from clusterfit.config.sections.training import Optimization
from clusterfit.config.sections.values import (
    LayerName,
    NonNegativeFloat,
    NonNegativeInt,
    OptionalModelName,
    OtherRunName,
    PositiveFloat,
    PositiveInt,
    RelativePath,
)
from clusterfit.config.showing import show_text


class EvaluatedBackbone(Section):
    """One row of the evaluation's table."""

    label: Annotated[str, StringConstraints(min_length=1, max_length=60)]
    """What the row is called."""
    source: Annotated[Literal["run", "path", "random"], Field(alias="from")]
    """`run`: what a stage of a run has trained. `path`: a weights file below the storage root.
    `random`: the seed's initialisation."""
    run: OtherRunName = ""
    """With `from: run`: the run's name; empty: this run."""
    stage: Literal["", "pretext", "train"] = ""
    """With `from: run`: the stage whose backbone is meant."""
    path: RelativePath = ""
    """With `from: path`: the weights file."""
    model: OptionalModelName = ""
    """With `from: path` or `random`: the model's name; with `from: run` the run knows it."""
    layer: LayerName = "res5avg"
    """Layer whose features are judged, average-pooled."""

    @model_validator(mode="after")
    def _fields_fit_the_source(self) -> Self:
        given = {
            "run": bool(self.run), "stage": bool(self.stage), "path": bool(self.path),
            "model": bool(self.model),
        }  # fmt: skip
        needed = {"run": {"stage"}, "path": {"path", "model"}, "random": {"model"}}[self.source]
        allowed = needed | ({"run"} if self.source == "run" else set())
        missing = sorted(name for name in needed if not given[name])
        idle = sorted(name for name, is_given in given.items() if is_given and name not in allowed)
        if missing:
            raise ValueError(f"{missing[0]}: missing, want it given with from: {self.source}")
        if idle:
            raise ValueError(f"{idle[0]}: has no effect with from: {self.source}; leave it out")
        return self


class PooledLayer(Section):
    """A layer that heads and SVMs stand on, average-pooled to a handy width."""

    layer: LayerName
    """Any layer of the model by its dotted name, or VISSL's conv1, res1..res5, res5avg."""
    kernel: NonNegativeInt = 0
    """Side of the windows that are averaged; 0: all of the layer's output, unpooled."""
    stride: PositiveInt = 1
    """From one window to the next."""
    padding: NonNegativeInt = 0
    """Zeros around the layer's output, which count in the averages."""

    def count_windows(self, side: int) -> int:
        """Return how many windows stand along a side of the layer's output; 0: it is too small.

        Source: torch.nn.AvgPool2d.
        """
        return max(0, (side + 2 * self.padding - self.kernel) // self.stride + 1)

    @model_validator(mode="after")
    def _padding_fits(self) -> Self:
        if 2 * self.padding > self.kernel:
            raise ValueError(
                f"padding: got {self.padding}, want at most half of kernel ({self.kernel})"
            )
        if not self.kernel and self.stride > 1:
            raise ValueError(f"stride: got {self.stride}, has no effect without kernel")
        return self


class Heads(Optimization):
    """Linear classifiers on frozen layers, trained together by SGD: VISSL's linear benchmark."""

    section = "evaluate.heads"

    epochs: PositiveInt = 28
    """Passes over the images. VISSL: 28 on ImageNet, 14 on Places205, 84 on iNaturalist 2018."""
    base_lr: PositiveFloat = 0.01
    """Learning rate per 256 images of the global batch."""
    warmup_epochs: NonNegativeFloat = 0.0
    """Epochs over which the rate rises linearly from baseLr to its peak; only where the global
    batch exceeds 256."""
    lr_milestones: tuple[PositiveFloat, ...] = (8.0, 16.0, 24.0)
    """Epochs at which a multistep schedule decays; without effect on cosine."""
    nesterov: bool = True
    """Whether the momentum is Nesterov's."""
    weight_decay: NonNegativeFloat = 5e-4
    """L2 penalty on weights and biases; none on batch norms."""
    crop_min_scale: Annotated[float, Gt(0), Le(1)] = 0.08
    """Smallest area of a random resized crop, as a fraction of the image's."""
    horizontal_flip: bool = True
    """Whether images are mirrored at random."""


class Svm(Section):
    """A linear SVM for each class, on images that may show several: VISSL's VOC07 protocol."""

    costs: Annotated[tuple[PositiveFloat, ...], Len(1)] = (
        0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0,
    )  # fmt: skip
    """Values of C; each class takes the best by cross-validation."""
    folds: Annotated[int, Ge(2)] = 3
    """Parts of the cross-validation."""
    max_iterations: PositiveInt = 2000
    """Passes of liblinear over the images."""
    squash: bool = True
    """Whether images are scaled to the square regardless of their shape, so that nothing at the rim
    is cut off; else the view of the other protocols."""


Protocol = Literal["linear", "knn", "heads", "svm"]


class Evaluate(CenterView):
    """How good frozen features are, for several backbones side by side on the same images."""

    protocols: Annotated[tuple[Protocol, ...], Len(1)] = ("linear", "knn")
    """`linear`: logistic regression on one layer's features of the center view, to its optimum.
    `knn`: a vote of the nearest images. `heads`: classifiers on several layers trained by SGD on
    random crops, VISSL's linear benchmark. `svm`: a linear SVM per class and layer, with labels
    (N, C), VISSL's VOC07 protocol; the others need one label per image."""
    backbones: tuple[EvaluatedBackbone, ...] = ()
    """The table's rows."""
    labels_per_class: tuple[PositiveInt, ...] = ()
    """Linear probes on this many labelled images of each class, beside the one on all labels."""
    l2_penalty: PositiveFloat = 1e-3
    """Weight of the linear probe's L2 penalty beside the mean cross-entropy; features are
    standardised first."""
    neighbors: PositiveInt = 20
    """k of the k-nearest-neighbour vote."""
    temperature: PositiveFloat = 0.07
    """Votes weigh exp(cosine similarity / temperature), after Wu et al., 2018."""
    layers: Annotated[tuple[PooledLayer, ...], Len(1)] = (
        PooledLayer(layer="conv1", kernel=10, stride=10, padding=4),
        PooledLayer(layer="res2", kernel=16, stride=8),
        PooledLayer(layer="res3", kernel=13, stride=5),
        PooledLayer(layer="res4", kernel=8, stride=3),
        PooledLayer(layer="res5", kernel=6),
        PooledLayer(layer="res5avg"),
    )
    """What `heads` and `svm` stand on. The default is VISSL's for a ResNet-50 at 224 pixels: 9216
    or 8192 numbers each, 2048 of res5avg."""
    heads: Heads = Heads()
    svm: Svm = Svm()

    @model_validator(mode="after")
    def _labels_are_distinct(self) -> Self:
        for field, names in (
            ("backbones", [backbone.label for backbone in self.backbones]),
            ("layers", [layer.layer for layer in self.layers]),
            ("protocols", list(self.protocols)),
        ):
            if len(names) != len(set(names)):
                got = ", ".join(map(show_text, names))
                raise ValueError(f"{field}: got {got}, want each only once")
        return self

    def dump_results(self) -> dict[str, Any]:
        """Return what decides the results of the protocols that are asked for."""
        dumped = super().dump_results()
        idle = {"heads", "svm"} - set(self.protocols)
        if {"heads", "svm"} == idle:
            idle.add("layers")
        return {key: value for key, value in dumped.items() if key not in idle}
