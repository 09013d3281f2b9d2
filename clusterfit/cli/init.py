"""`clusterfit init`: a run file to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clusterfit.errors import ConfigError, WriteError


def init(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("run.yaml"),
    name: Annotated[str, typer.Option(help="The run's name.")] = "my-run",
    train: Annotated[str, typer.Option(help="Images, below the data root.")] = "train",
    val: Annotated[
        str, typer.Option(help="Held-out, labelled images below the data root, to evaluate on.")
    ] = "",
    weights: Annotated[
        str,
        typer.Option(
            help="A pre-trained checkpoint below the storage root. Without it the run pre-trains "
            "a network itself."
        ),
    ] = "",
    model: Annotated[str, typer.Option(help="A torchvision model.")] = "resnet50",
) -> None:
    """Write a run file to start from.

    It is short and commented, and never written over a file that is there.
    """
    from clusterfit.config.loading import check_values
    from clusterfit.config.starter import Starter

    starter = Starter(name=name, train=train, val=val, weights=weights, model=model)
    check_values(starter.values())
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(starter.format(path.name))
    except FileExistsError:
        raise ConfigError(f"{path}: already there; remove it or name another file") from None
    except OSError as error:
        raise WriteError(f"{path}: {error.strerror}") from None
    print(f"wrote {path}; adapt it, then: clusterfit config check -f {path}")
