"""The run file as a typed tree: the only source of values, schema and reference documentation.

Everything but `platform` enters the container as config.json. Nothing derived is stored here:
peak rates, global batch sizes and step counts are computed in `clusterfit.config.schedule`.
An empty string or list means "not given"; 0 means "no limit" where a field says so.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal, Self

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from clusterfit.config.networks import SMALL_RESNET, check_name, read_networks
from clusterfit.config.platform import Platform
from clusterfit.config.section import OPERATIONAL, Section, Wanted
from clusterfit.config.stages import STAGES, StageName

Fraction = Annotated[float, Ge(0), Le(1)]
PositiveInt = Annotated[int, Gt(0)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Rgb = Annotated[tuple[float, ...], Len(3, 3)]

RunName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=40),
    Wanted("1 to 40 lower-case letters, digits and `-`, a letter first and no `-` last"),
]
"""A DNS-1035 label that leaves room for what Kubernetes appends: `-evaluate-worker-31`."""

OptionalModelName = Annotated[
    str,
    AfterValidator(check_name),
    WithJsonSchema({"type": "string", "enum": ["", *read_networks()]}),
    Wanted(f"a torchvision classification model or {SMALL_RESNET}; or nothing"),
]
"""A network by its name; empty where it is not given."""
ModelName = Annotated[
    str,
    StringConstraints(min_length=1),
    AfterValidator(check_name),
    WithJsonSchema({"type": "string", "enum": [*read_networks()]}),
    Wanted(f"a torchvision classification model or {SMALL_RESNET}"),
]
OtherRunName = Annotated[
    str,
    StringConstraints(pattern=r"^([a-z]([-a-z0-9]*[a-z0-9])?)?$", max_length=40),
    Wanted("another run's name, or nothing"),
]
_STEP: Final = r"([^/.\x00][^/\x00]*|\.([^/.\x00][^/\x00]*)?|\.\.[^/\x00]+)"
"""A part of a path that is not `..`, written without lookahead: Helm's engine has none."""
RelativePath = Annotated[
    str,
    StringConstraints(pattern=rf"^({_STEP}(/({_STEP})?)*)?$"),
    Wanted("a path below its root, so without `/` in front and without `..`"),
]
"""A path below one of the two roots; empty where it is not given."""


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
    """A held-out partition; empty: none. Evaluate needs it."""
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
    loaders_per_rank: Annotated[NonNegativeInt, OPERATIONAL] = 4
    """Processes that decode and augment for each rank; 0: the rank itself. About 860 JPEGs a
    second and core."""

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
    checkpoint_every_steps: Annotated[PositiveInt, OPERATIONAL] = 1000
    """Optimizer steps between checkpoints; one is also written at each epoch's end, at most every
    30 seconds, and on SIGTERM."""
    keep_checkpoints: Annotated[PositiveInt, OPERATIONAL] = 2
    """Newest checkpoints kept on disk; each holds weights and momentum, twice the model's size."""

    @model_validator(mode="after")
    def _milestones_rise_within_epochs(self) -> Self:
        if self.schedule == "multistep":
            if list(self.lr_milestones) != sorted(set(self.lr_milestones)):
                raise ValueError(
                    f"lrMilestones: got {list(self.lr_milestones)}, want each above the one before"
                )
            if self.lr_milestones and self.lr_milestones[-1] >= self.epochs:
                raise ValueError(
                    f"lrMilestones: got {list(self.lr_milestones)}, want all below epochs "
                    f"({self.epochs}); give milestones of your own, or schedule: cosine"
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
    layer: Annotated[str, StringConstraints(min_length=1)] = "res5avg"
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


class Cluster(Section):
    """Step 1, second half: k-means on the features of the train partition."""

    engine: Literal["auto", "faiss", "torch"] = "auto"
    """`torch`: on all ranks, each with its own rows; bfloat16 products where the device is fast at
    them, the last assignment exact. `faiss`: faiss.Kmeans in one process, on the CPU or on the GPUs
    of one node where its GPU wheel is in. `auto`: torch, unless one process on a CPU without fast
    bfloat16 is asked for plain Lloyd iterations; the log says what was chosen and why."""
    num_clusters: PositiveInt = 16000
    """K. Must not exceed the number of images."""
    init: Literal["two_level", "random", "given"] = "two_level"
    """`two_level`: the square root of K coarse cells, then each cell's share of K inside it; about
    the cost of two iterations. `random`: K distinct rows, drawn by the seed. `given`:
    initialCentroids. faiss takes the last two."""
    initial_centroids: RelativePath = ""
    """With init: given: a (K, D) .npy below the storage root to start from."""
    num_iterations: PositiveInt = 50
    """Rounds of assignment and update, at most."""
    stop_improvement: NonNegativeFloat = 1e-4
    """Stop after an iteration that began less than this fraction below the objective of the one
    before; 0: never. Has no effect on faiss, which does all iterations."""
    stop_churn: Fraction = 0.0
    """Stop after an iteration in which at most this fraction of the rows changed its cluster; at 0
    where none did. Has no effect on faiss."""
    spherical: bool = False
    """Whether centroids are divided by their L2 norm after each update, for normalised rows; with
    the torch engine."""
    normalize: bool = True
    """Whether rows are divided by their L2 norm, as VISSL does; after pcaDim, where that is set."""
    pca_dim: NonNegativeInt = 0
    """Dimensions kept by a principal component analysis; 0: none."""
    pca_whiten: bool = False
    """Whether the kept components are scaled to unit variance."""
    max_points_per_centroid: NonNegativeInt = 0
    """Train on at most this many rows per cluster, drawn by the seed; 0: all rows. The
    assignments always cover all rows."""
    num_nearest: PositiveInt = 1
    """Nearest centroids listed for each image; above 1 they are also written to nearest.npy, (N,
    this many) int64, the nearest first."""

    @model_validator(mode="after")
    def _whitening_needs_pca(self) -> Self:
        if self.pca_whiten and not self.pca_dim:
            raise ValueError("pcaWhiten: has no effect without pcaDim; give the dimensions to keep")
        return self

    @model_validator(mode="after")
    def _centroids_go_with_init_given(self) -> Self:
        if self.init == "given" and not self.initial_centroids:
            raise ValueError("initialCentroids: missing, want a file, because of init: given")
        if self.init != "given" and self.initial_centroids:
            raise ValueError(
                f"initialCentroids: has no effect with init: {self.init}; set init: given"
            )
        return self

    @model_validator(mode="after")
    def _faiss_does_what_is_asked(self) -> Self:
        if self.engine != "faiss":
            return self
        asked = {
            "init: two_level": self.init == "two_level",
            "spherical": self.spherical,
        }
        if refused := [setting for setting, is_asked in asked.items() if is_asked]:
            raise ValueError(
                f"engine: faiss does not know {', '.join(refused)}; set engine: torch, or leave "
                "these and set init: random or given"
            )
        return self

    @model_validator(mode="after")
    def _nearest_are_of_the_clusters(self) -> Self:
        if self.num_nearest > self.num_clusters:
            raise ValueError(
                f"numNearest: got {self.num_nearest}, want at most numClusters "
                f"({self.num_clusters})"
            )
        return self


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
    layer: Annotated[str, StringConstraints(min_length=1)] = "res5avg"
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

    layer: Annotated[str, StringConstraints(min_length=1)]
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
                raise ValueError(f"{field}: got {', '.join(names)}, want each only once")
        return self

    def dump_results(self) -> dict[str, Any]:
        """Return what decides the results of the protocols that are asked for."""
        dumped = super().dump_results()
        idle = {"heads", "svm"} - set(self.protocols)
        if {"heads", "svm"} == idle:
            idle.add("layers")
        return {key: value for key, value in dumped.items() if key not in idle}


def _refuse_bool(value: object) -> object:
    """Keep `true` from passing for 1, which it equals in Python."""
    if isinstance(value, bool):
        raise ValueError(f"got {str(value).lower()}, want 1")
    return value


class Algorithm(Section):
    """Everything that decides a result: what enters the container as config.json."""

    format_version: Annotated[Literal[1], BeforeValidator(_refuse_bool)]
    """Version of this file's format."""
    name: RunName
    """The run: its directory, and on a cluster the label by which its objects are found."""
    stages: Annotated[tuple[StageName, ...], Len(1), OPERATIONAL] = ("extract", "cluster")
    """What a submission does, in the pipeline's order; `submit step1` and the like set it."""
    seed: Annotated[int, Ge(0), Lt(2**31)] = 0
    """Of everything random: initial weights, order of images, augmentation, initial centroids."""
    device: Annotated[Literal["cuda", "cpu"], OPERATIONAL] = "cuda"
    """Where networks run. Nothing falls back from one to the other: a GPU that is asked for and is
    not there is an error."""
    inputs: Inputs = Inputs()
    data: Data = Data()
    pretext: Pretext = Pretext()
    extract: Extract = Extract()
    cluster: Cluster = Cluster()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _stages_in_order(self) -> Self:
        ordered = tuple(stage for stage in STAGES if stage in self.stages)
        if self.stages != ordered:
            raise ValueError(
                f"stages: got {', '.join(self.stages)}, want each once and in this order: "
                f"{', '.join(STAGES)}"
            )
        if "evaluate" in self.stages:
            if not self.data.val:
                raise ValueError(
                    "data.val: missing, want the images that the evaluate stage judges on"
                )
            if not self.evaluate.backbones:
                raise ValueError("evaluate.backbones: missing, want what the evaluate stage judges")
        if self.inputs.features and "extract" in self.stages:
            raise ValueError(
                f"inputs.features: got {self.inputs.features}, whose features stand in for this "
                "run's; leave extract out of stages"
            )
        if self.inputs.assignments and "cluster" in self.stages:
            raise ValueError(
                f"inputs.assignments: got {self.inputs.assignments}, which stands in for this "
                "run's clusters; leave cluster out of stages"
            )
        return self


class RunFile(Algorithm):
    """One run: the algorithm, and where a cluster shall run it."""

    platform: Platform = Platform()
    """What Kubernetes needs: GPUs, image, claims, queue. It never enters a container."""

    @model_validator(mode="after")
    def _run_and_data_lie_apart(self) -> Self:
        self.platform.check_run_folder(self.name)
        return self

    def algorithm(self) -> Algorithm:
        """Return the part that enters the container, without `platform`."""
        return Algorithm.model_validate_json(
            self.model_dump_json(by_alias=True, include=set(Algorithm.model_fields))
        )
