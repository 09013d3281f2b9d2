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

STEP_NAMES: Final = (*STEPS, "pipeline", *STAGES)
"""Everything that a command accepts where it asks for a step or a stage."""
