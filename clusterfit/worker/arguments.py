"""The command line of the entry."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.config.stages import STAGES, StageName
from clusterfit.config.tree import Algorithm
from clusterfit.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a worker is to do: one stage of one run."""

    stage: StageName
    config: Algorithm
    data_root: Path
    run: RunDirectory
    overwrite: str
    """Token of a submission that may redo a finished stage; empty: none."""


class _Parser(argparse.ArgumentParser):
    """Ends a wrong command line as any other fault of configuration."""

    def error(self, message: str) -> NoReturn:
        self.exit(ConfigError.exit_code, f"error: {message}\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the options of `python -m clusterfit.worker`."""
    parser = _Parser(prog="clusterfit.worker")
    parser.add_argument("stages", nargs="+", choices=STAGES, metavar="STAGE")
    parser.add_argument("--config", type=Path, required=True, help="config.json of the run")
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--storage-root", type=Path, required=True)
    parser.add_argument("--overwrite", default="", metavar="TOKEN", help="redo a finished stage")
    parser.add_argument(
        "--stop-with-parent", type=int, metavar="PID", help="die when the caller dies"
    )
    return parser


def read_assignment(options: argparse.Namespace) -> Assignment:
    """Return the assignment that parsed options describe, for the first of their stages.

    Raises:
        ConfigError: when config.json cannot be read or is not a run of this version.
    """
    path: Path = options.config
    try:
        config = Algorithm.model_validate_json(path.read_bytes(), by_alias=True, by_name=False)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']} ({path})"
            for fault in error.errors(include_url=False)
        ]
        raise ConfigError(*faults) from error
    return Assignment(
        stage=options.stages[0],
        config=config,
        data_root=options.data_root,
        run=RunDirectory(options.storage_root, config.name),
        overwrite=options.overwrite,
    )
