"""What a run reads: images, weights, artifacts of other runs."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from annotated_types import Len
from pydantic import Field, model_validator

from clusterfit.config.section import OPERATIONAL, Section
from clusterfit.config.sections.values import (
    Fraction,
    NonNegativeInt,
    OtherRunName,
    PositiveFloat,
    RelativePath,
    Rgb,
)


class Inputs(Section):
    """Artifacts that another run has already made."""

    features: OtherRunName = ""
    """Name of the run whose features the cluster stage reads; empty: this run's own. A sweep over
    the number of clusters extracts once."""
    assignments: RelativePath = ""
    """A .npy below the storage root with one cluster per train image, in the data set's order: an
    integer from 0, or -1 for none. Train takes it in place of this run's cluster stage. K is the
    largest and one; empty: none is given."""


class Data(Section):
    """The images, below the data root."""

    format: Literal["folder", "filelist"] = "folder"
    """`folder`: every image file below the path, in sorted order; where all of them lie in
    subfolders, the first folder is the label. `filelist`: a text file with one path a line, or a
    .npy array of paths, each relative to the data root."""
    train: RelativePath = "train"
    """The partition that is clustered and trained on: a folder or a file list."""
    val: RelativePath = ""
    """A held-out partition; empty: none. Evaluate needs it, and labels of both."""
    train_labels: RelativePath = ""
    """For `filelist`: a .npy array of integers: one label per path, (N,), or, where an image may
    show several of C classes, (N, C) of 1 (shown), 0 (not) and -1 (difficult: a negative in
    training, not judged on). Empty: unlabelled."""
    val_labels: RelativePath = ""
    """The same for the val partition."""
    mean: Rgb = (0.485, 0.456, 0.406)
    """Subtracted from each channel of an image in 0..1; ImageNet's by default."""
    std: Annotated[tuple[PositiveFloat, ...], Len(3, 3)] = (0.229, 0.224, 0.225)
    """Each channel is divided by it; ImageNet's by default."""
    max_unreadable_fraction: Annotated[Fraction, OPERATIONAL] = 0.001
    """Images that cannot be decoded are left out, each with its reason. More than this fraction of
    a partition, and the stage stops (65)."""
    loaders_per_rank: Annotated[NonNegativeInt, OPERATIONAL] = 8
    """Processes that decode images and cut views for each rank, which has no more of them than it
    sees cores; 0: the rank itself. A core gives a few hundred ImageNet-sized JPEGs a second, a fast
    GPU takes thousands: see docs/benchmarks.md."""

    @model_validator(mode="after")
    def _labels_belong_to_file_lists(self) -> Self:
        if self.format == "folder" and (self.train_labels or self.val_labels):
            raise ValueError(
                "trainLabels and valLabels belong to format: filelist; a folder's labels are its "
                "subfolders' names"
            )
        if self.val_labels and not self.val:
            raise ValueError("valLabels: got labels of a partition that val does not name")
        return self


class Weights(Section):
    """Where a backbone's weights come from, and which of a file's keys are meant."""

    source: Annotated[Literal["pretext", "path", "random"], Field(alias="from")] = "pretext"
    """`pretext`: this run's pretext stage. `path`: a file below the storage root: torchvision,
    plain or DDP state dicts, safetensors, VISSL checkpoints. `random`: the seed decides."""
    path: RelativePath = ""
    """The file, with `from: path`. Never unpickled beyond plain tensors."""
    state_dict_key: str = ""
    """Dotted keys that lead to the state dict inside the file, as VISSL's STATE_DICT_KEY_NAME;
    empty: found by itself."""
    remove_prefix: str = ""
    """Cut, once, from the front of each key that has it; other keys stay as they are."""
    append_prefix: str = ""
    """Put before each key, after removePrefix."""
    skip_layers: tuple[str, ...] = ()
    """Keys of the model that contain any of these words keep their random weights, as VISSL's
    SKIP_LAYERS."""
    min_loaded_fraction: Annotated[Fraction, OPERATIONAL] = 0.9
    """At least this fraction of the backbone's tensors must be in the file, and this fraction of
    the file's in the backbone (a larger network's file fits a smaller network in part); else the
    stage stops (65). Heads and counters do not count."""

    @model_validator(mode="after")
    def _path_goes_with_from_path(self) -> Self:
        if self.source == "path" and not self.path:
            raise ValueError("path: missing, want a weights file, because of from: path")
        if self.source != "path" and self.path:
            raise ValueError(f"path: has no effect with from: {self.source}; set from: path")
        if self.source != "path" and (
            self.state_dict_key or self.remove_prefix or self.append_prefix or self.skip_layers
        ):
            raise ValueError(
                "stateDictKey, removePrefix, appendPrefix and skipLayers go with from: path"
            )
        return self
