"""`clusterfit artifacts`: what a run has made, whether it still is, and how it goes in and out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from stat import S_ISDIR
from typing import TYPE_CHECKING, Annotated

import typer

from clusterfit.cli.amounts import format_bytes, format_count
from clusterfit.cli.options import Overrides, RunFiles, StorageRoot, load

if TYPE_CHECKING:
    from clusterfit.artifacts.layout import RunDirectory

app = typer.Typer(
    help="List and verify what runs have made, and exchange it with other projects.",
    no_args_is_help=True,
)


class Product(StrEnum):
    """The stages whose artifacts other projects can use."""

    PRETEXT = "pretext"
    TRAIN = "train"
    CLUSTER = "cluster"


class Layout(StrEnum):
    """Whose files are written."""

    VISSL = "vissl"
    TORCHVISION = "torchvision"


@app.command("ls")
def list_(
    run: Annotated[str, typer.Argument(help="A run's name; empty: all runs.")] = "",
    storage_root: StorageRoot = Path("runs"),
) -> None:
    """List the finished artifacts of a run, or of all runs."""
    from clusterfit.artifacts.layout import list_runs
    from clusterfit.artifacts.verify import list_artifacts

    runs = [_find_run(storage_root, run)] if run else list_runs(storage_root)
    if not runs:
        print(f"no runs below {storage_root}")
    for directory in runs:
        artifacts = list_artifacts(directory)
        if not artifacts:
            print(f"{directory.name}: no stage of it has finished")
        for artifact in artifacts:
            size = format_bytes(artifact.size_bytes)
            files = format_count(len(artifact.manifest.files), "file")
            name = f"{directory.name}/{artifact.name}"
            print(f"{name:<44} {files:>12} {size:>10}  {artifact.manifest.fingerprint[:12]}")


@app.command()
def verify(
    run: Annotated[str, typer.Argument(help="A run's name.")],
    storage_root: StorageRoot = Path("runs"),
) -> None:
    """Read every file of a run and say which are missing or damaged (65)."""
    from clusterfit.artifacts.verify import find_faults, list_artifacts
    from clusterfit.errors import InvalidDataError, MissingInputError

    directory = _find_run(storage_root, run)
    if faults := list(find_faults(directory)):
        raise InvalidDataError(
            *faults,
            "delete what is named and run its stage again: of features the named parts alone are "
            "redone, of another stage perhaps all",
        )
    artifacts = list_artifacts(directory)
    if not artifacts:
        raise MissingInputError(f"{directory.root}: no stage has finished; there is no manifest")
    num_files = sum(len(artifact.manifest.files) for artifact in artifacts)
    files = format_count(num_files, "file")
    said = format_count(len(artifacts), "artifact")
    print(f"ok: {files} of {said}: all is as the manifests say")


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="A run's name.")],
    stage: Annotated[
        Product,
        typer.Argument(help="pretext or train: the network. cluster: images and labels."),
    ] = Product.TRAIN,
    layout: Annotated[
        Layout | None,
        typer.Option(
            "--format",
            help="Who shall read it: by default torchvision, and vissl where it is clusters.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="The weights file, by default RUN-STAGE.pth, or .torch for vissl; cluster: the "
            "folder of the two files, by default RUN-cluster.",
            show_default=False,
        ),
    ] = None,
    partition: Annotated[str, typer.Option(help="cluster: train or val.")] = "train",
    data_root: Annotated[
        Path | None,
        typer.Option(
            help="cluster: put before each path; by default paths stay below the data root."
        ),
    ] = None,
    storage_root: StorageRoot = Path("runs"),
) -> None:
    """Write a run's network, or its clusters, as VISSL or torchvision reads them."""
    directory = _find_run(storage_root, run)
    layout = layout or (Layout.VISSL if stage is Product.CLUSTER else Layout.TORCHVISION)
    name = f"{run}-{stage.value}"
    if stage is Product.CLUSTER:
        _export_labels(directory, layout, partition, output or Path(name), data_root)
    else:
        suffix = ".torch" if layout is Layout.VISSL else ".pth"
        _export_weights(directory, stage, layout, output or Path(name + suffix))


@app.command("import-features")
def import_features(
    folder: Annotated[
        Path, typer.Argument(help="Where VISSL's extraction wrote rank*_features.npy.")
    ],
    file: RunFiles,
    override: Overrides,
    layer: Annotated[
        str, typer.Option(help="VISSL's name of the layer, where there are several.")
    ] = "",
    data_root: Annotated[
        Path | None,
        typer.Option(help="Where paths under data start; by default the first run file's folder."),
    ] = None,
    storage_root: StorageRoot = Path("runs"),
) -> None:
    """Take VISSL's features over into the run that inputs.features names; then run cluster."""
    from clusterfit.interop.vissl_features_import import import_vissl_features

    config = load(file, override).run_file.algorithm()
    for done in import_vissl_features(
        folder, config, data_root or file[0].parent, storage_root, layer
    ):
        padding = format_count(done.num_duplicates, "row")
        left_out = f", {padding} of padding left out" if done.num_duplicates else ""
        images = format_count(done.num_samples, "image")
        print(
            f"{done.partition}: {images} x {format_count(done.feature_dim, 'feature')} in the data "
            f"set's order{left_out}: {done.folder}"
        )


def _export_weights(run: RunDirectory, stage: Product, layout: Layout, output: Path) -> None:
    from clusterfit.artifacts.manifest import check_file, read_manifest
    from clusterfit.errors import MissingInputError
    from clusterfit.interop.export import export_weights

    folder = run.stage(stage.value)
    try:
        manifest = read_manifest(folder)
    except MissingInputError:
        raise MissingInputError(
            f"{folder}: {stage.value} has not finished; there is no network yet"
        ) from None
    weights = check_file(folder, manifest, run.backbone(stage.value))
    done = export_weights(weights, output, layout.value)
    head = f"and a head of {done.num_head_tensors}" if done.num_head_tensors else "without a head"
    backbone = format_count(done.num_backbone_tensors, "tensor")
    print(f"wrote {done.path}: {backbone} of the backbone {head}")
    for key in done.left_out:
        print(f"left out: {key}")


def _export_labels(
    run: RunDirectory, layout: Layout, partition: str, output: Path, data_root: Path | None
) -> None:
    from clusterfit.errors import ConfigError
    from clusterfit.interop.vissl_labels import export_run_labels

    if layout is not Layout.VISSL:
        raise ConfigError(f"--format {layout.value}: clusters are exported for vissl alone")
    images, labels = export_run_labels(run, partition, output, data_root)
    print(f"wrote {images} and {labels}, row for row; in VISSL's DATA.TRAIN:")
    print(f"  DATA_SOURCES: [disk_filelist]   DATA_PATHS: [{images}]")
    print(f"  LABEL_SOURCES: [disk_filelist]  LABEL_PATHS: [{labels}]")


def _find_run(storage_root: Path, name: str) -> RunDirectory:
    from clusterfit.artifacts.layout import RunDirectory, list_runs
    from clusterfit.artifacts.outage import check_storage
    from clusterfit.errors import InvalidDataError, MissingInputError

    directory = RunDirectory(storage_root, name)
    try:
        is_there = S_ISDIR(directory.root.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        is_there = False
    except OSError as error:
        check_storage(directory.root, error)
        raise InvalidDataError(f"{directory.root}: {error.strerror}") from error
    if not is_there:
        others = ", ".join(run.name for run in list_runs(storage_root)) or "none"
        raise MissingInputError(f"no run {name} below {storage_root}; there are: {others}")
    return directory
