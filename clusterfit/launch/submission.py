"""What a submission means: the run file, narrowed to the asked step and GPUs, fit for a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from clusterfit.config.loading import load_run_file
from clusterfit.config.platform.pods import Image
from clusterfit.config.stages import STEPS, StageName, narrow_to
from clusterfit.config.tree import RunFile
from clusterfit.errors import ConfigError

GPUS_FROM_FILE: Final = -1
"""What `--gpus` is where it was not given."""


def load_submission(
    step: str, files: Sequence[Path], overrides: Sequence[str] = (), gpus: int = GPUS_FROM_FILE
) -> RunFile:
    """Load a run file as one submission of it.

    Args:
        step: A step, a stage, or `pipeline` for the stages that the file lists.
        files: The run file, and files laid over it.
        overrides: `a.b=JSON` assignments.
        gpus: Instead of the file's `platform.gpus`.

    Raises:
        ConfigError: One line for everything that is wrong.
    """
    narrowed = [*overrides, *narrow_to(step)]
    if gpus != GPUS_FROM_FILE:
        narrowed.append(f"platform.gpus={gpus}")
    try:
        run = load_run_file(files, narrowed).run_file
    except ConfigError as error:
        if gpus == GPUS_FROM_FILE:
            raise
        # The loader knows options only as --set; the user wrote --gpus.
        raise ConfigError(
            *(
                fault.replace("(--set)", "(--gpus)") if fault.startswith("platform.gpus") else fault
                for fault in error.faults
            )
        ) from None
    check_for_cluster(run)
    return run


def name_step(stages: Sequence[StageName]) -> str:
    """Return the one name for a list of stages, whatever word was used to ask for them."""
    if len(stages) == 1:
        return stages[0]
    return next((step for step, names in STEPS.items() if names == tuple(stages)), "pipeline")


def check_for_cluster(run: RunFile) -> None:
    """Hold the algorithm and `platform` against each other.

    Raises:
        ConfigError: A stage could not work with what it asks for.
    """
    faults = []
    without = [stage for stage in run.stages if not run.platform.for_stage(stage).gpus]
    if run.device == "cuda" and without:
        faults.append(
            f"platform.gpus: got 0 for {', '.join(without)} with device: cuda; ask for GPUs "
            "(--gpus N), or set device: cpu"
        )
    for stage in run.stages:
        resources = run.platform.for_stage(stage)
        if run.device == "cuda" and 0 < resources.gpus_per_pod < resources.processes:
            faults.append(
                f"platform.processesPerNode: got {resources.processes} for {stage} on "
                f"{resources.gpus_per_pod} GPUs per node, want at most one process per GPU"
            )
        if stage == "cluster" and run.cluster.engine == "faiss":
            if resources.nodes > 1:
                faults.append(
                    f"platform.stages.cluster: asks for {resources.nodes} nodes, but engine: faiss "
                    "works on one; leave its gpus out, or give at most "
                    f"{resources.gpus_per_node}"
                )
            if resources.processes > 1:
                faults.append(
                    "platform.stages.cluster.processesPerNode: engine: faiss drives all GPUs of "
                    f"its node from one process; got {resources.processes}, want 1"
                )
    if faults:
        raise ConfigError(*faults)


def find_remarks(run: RunFile, gpus: int = GPUS_FROM_FILE) -> list[str]:
    """Return what is allowed and yet probably not meant, one line each; `gpus` as was asked for."""
    remarks = []
    own = {stage: run.platform.stages[stage].gpus for stage in _list_stages_with_gpus(run)}
    for stage, number in own.items():
        if gpus not in (GPUS_FROM_FILE, number):
            remarks.append(
                f"--gpus {gpus}: not for {stage}, which has a number of its own; "
                f"platform.stages.{stage}.gpus is {number}"
            )
    if run.platform.image.repository == Image().repository:
        remarks.append(
            f"platform.image.repository: {run.platform.image.repository} is a placeholder; name "
            "the place to which you have pushed what the Dockerfile builds"
        )
    idle = [stage for stage in run.stages if run.platform.for_stage(stage).gpus]
    if run.device == "cpu" and idle:
        settings = [f"platform.stages.{stage}.gpus: 0" for stage in idle if own.get(stage)]
        if any(stage not in own for stage in idle):
            settings.insert(0, "platform.gpus: 0 (--gpus 0)")
        remarks.append(
            f"device: cpu, yet GPUs are asked for that {', '.join(idle)} will not use; set "
            f"{' and '.join(settings)} unless that is meant"
        )
    if len(run.stages) > 1 and run.platform.sequencing.mode == "client":
        remarks.append(
            "platform.sequencing.mode: client: later stages start only while `submit --follow` or "
            "`clusterfit wait` runs"
        )
    return remarks


def _list_stages_with_gpus(run: RunFile) -> list[StageName]:
    """Return the stages of the run whose own settings say how many GPUs they take."""
    overrides = run.platform.stages
    return [
        stage
        for stage in run.stages
        if stage in overrides and "gpus" in overrides[stage].model_fields_set
    ]
