"""`clusterfit plan`: what a submission would do and need, before anything is submitted."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clusterfit.cli.amounts import format_bytes, format_count
from clusterfit.cli.cluster import Format, Output, format_table, print_data
from clusterfit.cli.options import STEP_HELP, Overrides, RunFiles, Step, StorageRoot
from clusterfit.cli.submit import Gpus
from clusterfit.errors import ConfigError

if TYPE_CHECKING:
    from clusterfit.config.forecast.figures import Figure, Pods, StageForecast
    from clusterfit.config.tree import RunFile


def plan(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="[STEP] [FILE]...",
            help=f"A step: {STEP_HELP}, the default. Run files, as with -f.",
            default_factory=list,
            show_default=False,
        ),
    ],
    file: RunFiles,
    override: Overrides,
    gpus: Gpus = -1,
    data_root: Annotated[
        Path | None,
        typer.Option(help="Where paths under data start; by default the first run file's folder."),
    ] = None,
    num_samples: Annotated[
        int,
        typer.Option(
            min=0, help="Images of data.train, where they are not here.", show_default=False
        ),
    ] = 0,
    num_val_samples: Annotated[
        int,
        typer.Option(
            min=0, help="Images of data.val, where they are not here.", show_default=False
        ),
    ] = 0,
    num_classes: Annotated[
        int,
        typer.Option(
            min=0, help="Classes of the labels, where they are not here.", show_default=False
        ),
    ] = 0,
    num_clusters: Annotated[
        int,
        typer.Option(
            min=0, help="Clusters in inputs.assignments, where it is not here.", show_default=False
        ),
    ] = 0,
    storage_root: StorageRoot = Path("runs"),
    output: Output = Format.TABLE,
) -> None:
    """Say what a submission would do and need: batches, steps, rates, storage, memory, pods."""
    from clusterfit.cli.plan_inputs import ImagesHere, look_up
    from clusterfit.config.forecast.run import forecast_run
    from clusterfit.launch.submission import load_submission

    steps = [word for word in what if word in set(Step)] or ["pipeline"]
    if len(steps) > 1:
        raise ConfigError(f"got the steps {', '.join(steps)}, want one")
    files = [*(Path(word) for word in what if word not in steps), *file]
    if not files:
        raise ConfigError("no run file is given: -f FILE; `clusterfit init` writes one")
    run = load_submission(steps[0], files, override, gpus)
    images = ImagesHere(run, data_root or files[0].parent)
    counts = {"train": num_samples or images.count("train", "--num-samples")}
    if run.data.val:
        counts["val"] = num_val_samples or images.count("val", "--num-val-samples")
    known = look_up(run, storage_root, counts["train"])
    known = replace(
        known,
        num_classes=num_classes or images.num_classes,
        num_clusters=num_clusters or known.num_clusters,
    )
    stages = forecast_run(run, counts, known)
    if output is Format.TABLE:
        print(_format_run(run, counts, stages))
    else:
        print_data(_dump_run(run, counts, stages), output)


def _dump_run(
    run: RunFile, counts: dict[str, int], stages: tuple[StageForecast, ...]
) -> dict[str, Any]:
    dumped = [
        {**asdict(stage), "pods": {**asdict(stage.pods), "world_size": stage.pods.world_size}}
        for stage in stages
    ]
    return {
        "run": run.name,
        "images": counts,
        "stages": dumped,
        "storage_bytes": _sum_storage(stages),
    }


def _format_run(run: RunFile, counts: dict[str, int], stages: tuple[StageForecast, ...]) -> str:
    images = ", ".join(
        f"{format_count(count, 'image')} of {partition}" for partition, count in counts.items()
    )
    blocks = [f"run {run.name}: {images}"]
    for stage in stages:
        rows = [
            *((figure.name, _format_number(figure), figure.because) for figure in stage.work),
            *(
                (figure.name, _format_size(figure), figure.because)
                for figure in (*stage.memory, *stage.storage)
            ),
        ]
        lines = [f"{stage.stage}: {_format_pods(stage.pods)}", _indent(format_table(_HEAD, rows))]
        lines += [f"  note: {remark}" for remark in stage.remarks]
        blocks.append("\n".join(lines))
    unknown = [figure.name for stage in stages for figure in stage.storage if figure.value is None]
    total = f"storage in all: {format_bytes(_sum_storage(stages))}"
    blocks.append(total + (f", without {', '.join(unknown)}" if unknown else ""))
    return "\n\n".join(blocks)


_HEAD = ("WHAT", "VALUE", "BECAUSE")


def _format_pods(pods: Pods) -> str:
    gpus = f"{pods.gpus} {pods.gpu_resource}" if pods.gpus else "no GPU"
    return (
        f"{format_count(pods.count, 'pod')} x "
        f"{format_count(pods.processes, 'process', 'processes')} = "
        f"{format_count(pods.world_size, 'rank')}; each pod asks for {gpus}, {pods.cpus:g} CPUs, "
        f"{pods.memory_gib:g} GiB of memory"
    )


def _format_number(figure: Figure) -> str:
    if figure.value is None:
        return "?"
    if isinstance(figure.value, tuple):
        return ", ".join(map(str, figure.value)) or "-"
    return f"{figure.value:g}" if isinstance(figure.value, float) else str(figure.value)


def _format_size(figure: Figure) -> str:
    return "?" if figure.value is None else format_bytes(float(str(figure.value)))


def _sum_storage(stages: tuple[StageForecast, ...]) -> int:
    return sum(
        figure.value
        for stage in stages
        for figure in stage.storage
        if isinstance(figure.value, int)
    )


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
