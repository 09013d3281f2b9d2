"""The run file that `clusterfit init` writes: short, commented, and ready to be changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from clusterfit.config.provenance import KeyPath
from clusterfit.config.schema import default_values
from clusterfit.config.writer import format_yaml

_HEAD: Final = """\
# A clusterfit run. What is not given here keeps its default; to see every value and where it
# comes from:  clusterfit config show --origin -f {file}

"""

_COMMENTS: Final[dict[KeyPath, tuple[str, ...]]] = {
    ("name",): ("The run's name: its directory, and its label on a cluster.",),
    ("stages",): ("What is done, always in the order pretext, extract, cluster, train, evaluate.",),
    ("device",): ("cuda, or cpu where there is no GPU.",),
    ("data",): (
        "",
        "Images, below the data root: this file's folder unless --data-root says else.",
    ),
    ("data", "val"): ("Held-out images in one folder per class, for evaluate.",),
    ("pretext",): (
        "",
        "RotNet pre-training: its network is what extract looks at the images with.",
    ),
    ("extract",): ("", "Step 1, first half: features of every image."),
    ("extract", "weights", "path"): (
        "Below the storage root: a torchvision, safetensors or VISSL checkpoint.",
    ),
    ("extract", "layer"): ("Any layer of the model, or VISSL's conv1, res1..res5, res5avg.",),
    ("cluster",): ("", "Step 1, second half: k-means on the features."),
    ("cluster", "numClusters"): ("K: more than there are classes, fewer than there are images.",),
    ("train",): ("", "Step 2: a network from scratch that predicts each image's cluster."),
    ("train", "batchSizePerRank"): (
        "Times the number of GPUs is the global batch, by which the learning rate scales:",
        "baseLr is for 256 images.",
    ),
    ("train", "lrMilestones"): ("Epochs after which the rate falls to a tenth.",),
    ("evaluate",): ("", "Linear probes and nearest neighbours, side by side on data.val."),
}


@dataclass(frozen=True, slots=True)
class Starter:
    """What `clusterfit init` may be told; the rest are the tree's defaults."""

    name: str = "my-run"
    train: str = "train"
    val: str = ""
    """Held-out images; empty: nothing is evaluated."""
    weights: str = ""
    """A checkpoint below the storage root; empty: the run trains its own, with RotNet."""
    model: str = "resnet50"

    def values(self) -> dict[str, Any]:
        """Return the run file's content."""
        defaults = default_values()
        recipe = {key: defaults["train"][key] for key in ("epochs", "batchSizePerRank", "baseLr")}
        recipe["lrMilestones"] = [int(epoch) for epoch in defaults["train"]["lrMilestones"]]
        stages = ["extract", "cluster", "train"]
        values: dict[str, Any] = {
            "formatVersion": 1,
            "name": self.name,
            "stages": stages,
            "device": defaults["device"],
            "data": {"train": self.train},
        }
        if self.val:
            values["data"]["val"] = self.val
        if not self.weights:
            stages.insert(0, "pretext")
            values["pretext"] = {"model": self.model, "epochs": recipe["epochs"]}
        values |= {
            "extract": {
                "model": self.model,
                "weights": {"from": "path", "path": self.weights}
                if self.weights
                else {"from": "pretext"},
                "layer": defaults["extract"]["layer"],
            },
            "cluster": {key: defaults["cluster"][key] for key in ("numClusters", "numIterations")},
            "train": {"model": self.model, **recipe},
        }
        if self.val:
            stages.append("evaluate")
            values["evaluate"] = {"backbones": self._backbones()}
        return values

    def format(self, file: str) -> str:
        """Return the text of the run file that will be called `file`."""
        return _HEAD.format(file=file) + format_yaml(
            self.values(), above=lambda path: _COMMENTS.get(path, ())
        )

    def _backbones(self) -> list[dict[str, str]]:
        teacher = {"label": "teacher", "from": "path", "path": self.weights, "model": self.model}
        if not self.weights:
            teacher = {"label": "pretext", "from": "run", "stage": "pretext"}
        return [
            {"label": "random init", "from": "random", "model": self.model},
            teacher,
            {"label": "clusterfit", "from": "run", "stage": "train"},
        ]
