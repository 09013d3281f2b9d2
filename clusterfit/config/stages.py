"""The five stages and the steps that name them."""

from __future__ import annotations

import json
from typing import Final, Literal, get_args

StageName = Literal["pretext", "extract", "cluster", "train", "evaluate"]

STAGES: Final[tuple[StageName, ...]] = get_args(StageName)
"""In pipeline order."""

STEPS: Final[dict[str, tuple[StageName, ...]]] = {
    "step1": ("extract", "cluster"),
    "step2": ("train",),
}
"""ClusterFit's two steps. `pipeline` is every stage that the run file lists."""


def narrow_to(step: str) -> list[str]:
    """Return the `--set` overrides that leave a run file a step's stages, or the one stage named.

    `pipeline` leaves it what it lists.
    """
    return [] if step == "pipeline" else [f"stages={json.dumps(STEPS.get(step, (step,)))}"]
