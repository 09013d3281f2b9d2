"""The run file as a typed tree: the only source of values, schema and reference documentation.

Everything but `platform` enters the container as config.json. Nothing derived is stored here:
peak rates, global batch sizes and step counts are computed in `clusterfit.config.schedule`.
An empty string or list means "not given"; 0 means "no limit" where a field says so.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from annotated_types import Ge, Len, Lt
from pydantic import BeforeValidator, model_validator

from clusterfit.config.platform.tree import Platform
from clusterfit.config.section import OPERATIONAL, Section
from clusterfit.config.sections.clustering import Cluster
from clusterfit.config.sections.evaluation import Evaluate
from clusterfit.config.sections.extraction import Extract
from clusterfit.config.sections.inputs import Data, Inputs
from clusterfit.config.sections.training import Pretext, Train
from clusterfit.config.sections.values import RunName
from clusterfit.config.stages import STAGES, StageName


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

    @model_validator(mode="after")
    def _extract_uses_the_network_of_pretext(self) -> Self:
        """Where both are of one submission: what another has left is judged when it is read."""
        is_trained = {"pretext", "extract"} <= set(self.stages)
        is_used = is_trained and self.extract.weights.source == "pretext"
        if is_used and self.extract.model != self.pretext.model:
            raise ValueError(
                f"extract.model: got {self.extract.model}, want {self.pretext.model}, as "
                "pretext.model, because of extract.weights.from: pretext"
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
