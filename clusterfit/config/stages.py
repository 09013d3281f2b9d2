"""The five stages and the steps that name them."""

from __future__ import annotations

from typing import Final, Literal, get_args

StageName = Literal["pretext", "extract", "cluster", "train", "evaluate"]

STAGES: Final[tuple[StageName, ...]] = get_args(StageName)
"""In pipeline order."""

STEPS: Final[dict[str, tuple[StageName, ...]]] = {
    "step1": ("extract", "cluster"),
    "step2": ("train",),
}
"""ClusterFit's two steps. `pipeline` is every stage that the run file lists."""


def list_step_stages(step: str, pipeline: tuple[StageName, ...]) -> tuple[StageName, ...]:
    """Return the stages that a step or stage name means; `pipeline` are the run file's."""
    if step == "pipeline":
        return pipeline
    return STEPS.get(step) or tuple(stage for stage in STAGES if stage == step)
