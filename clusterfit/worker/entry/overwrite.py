"""`--overwrite`: redo a finished stage, once for each time that it is asked for.

The token belongs to one submission and is recorded in the run directory, so a retried pod does not
erase what its first attempt has done.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from clusterfit.artifacts.files import (
    Guard,
    find_visible_files,
    read_json,
    remove_files,
    write_json,
)
from clusterfit.artifacts.layout import DATASET_NAME, MANIFEST_NAME, TRAIN
from clusterfit.artifacts.outage import check_storage
from clusterfit.errors import MissingInputError, WriteError
from clusterfit.worker.arguments import Assignment
from clusterfit.worker.identity import list_targets
from clusterfit.worker.log import Log

_FIRST_STAGES: Final = frozenset({"pretext", "extract"})
"""Those that a run begins with: done again, they may be of other images."""


def is_overwrite_pending(assignment: Assignment) -> bool:
    """Tell whether there is a token that has not been obeyed yet."""
    if not assignment.overwrite:
        return False
    try:
        record = read_json(assignment.run.overwrite_file(assignment.stage))
    except MissingInputError:
        return True
    return bool(record.get("token") != assignment.overwrite)


def forget_samples(assignment: Assignment, guard: Guard) -> None:
    """Remove what the run lists as its images, where its first stages are to be done again.

    Raises:
        WriteError: it cannot be removed.
        RetryableError: the storage failed.
    """
    if is_overwrite_pending(assignment) and assignment.stage in _FIRST_STAGES:
        _remove(assignment.run.listings, DATASET_NAME, guard)


def remove_artifacts(assignment: Assignment, world_size: int, log: Log, guard: Guard) -> None:
    """Remove what the stage has made, where that is asked for and it can be made again.

    Raises:
        MissingInputError: an input of the stage is not there.
        RetryableError: it is not there yet, or the storage failed.
        InvalidDataError: an input is not what the run file asks for.
        WriteError: something cannot be removed.
    """
    if not is_overwrite_pending(assignment):
        return
    folder = _find_folder(assignment)
    if files := find_visible_files(folder):
        list_targets(assignment, world_size)
        log.warning("--overwrite removes what is there", removed=folder, num_files=len(files))
    _remove(folder, MANIFEST_NAME, guard)
    record = {"token": assignment.overwrite}
    write_json(assignment.run.overwrite_file(assignment.stage), record, guard)


def _find_folder(assignment: Assignment) -> Path:
    """Return what the stage is about to make again: of features, those of this layer alone."""
    if assignment.stage == "extract":
        return assignment.run.features(assignment.config.extract.layer, TRAIN).parent
    return assignment.run.stage(assignment.stage)


def _remove(folder: Path, first: str, guard: Guard) -> None:
    """Remove a folder, beginning with the files that vouch for the others.

    So a removal that is cut short leaves what is unfinished, and nothing that is false.
    """
    if not folder.exists():
        return
    try:
        guard()
        remove_files(folder.rglob(first))
        shutil.rmtree(folder)
    except OSError as error:
        where = Path(error.filename or folder)
        check_storage(where, error)
        raise WriteError(f"{where}: cannot remove: {error.strerror or error}") from error
