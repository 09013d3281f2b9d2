"""`--overwrite`: redo a finished stage, once for each time that it is asked for."""

from __future__ import annotations

import shutil

from clusterfit.artifacts.files import Guard, read_json, remove_files, write_json
from clusterfit.artifacts.layout import MANIFEST_NAME
from clusterfit.errors import MissingInputError, WriteError
from clusterfit.worker.arguments import Assignment


def is_overwrite_pending(assignment: Assignment) -> bool:
    """Tell whether there is a token that has not been obeyed yet."""
    if not assignment.overwrite:
        return False
    try:
        record = read_json(assignment.run.overwrite_file(assignment.stage))
    except MissingInputError:
        return True
    return bool(record.get("token") != assignment.overwrite)


def obey_overwrite(assignment: Assignment, guard: Guard) -> None:
    """Remove the stage's artifacts, unless this token was obeyed before.

    The token belongs to one submission and is recorded in the run directory, so a retried pod does
    not erase what its first attempt has done.
    """
    if not is_overwrite_pending(assignment):
        return
    run, stage = assignment.run, assignment.stage
    record = run.overwrite_file(stage)
    folder = run.stage(stage)
    try:
        guard()
        # Manifests first: a removal that is cut short leaves an unfinished stage, not a false one.
        remove_files(folder.rglob(MANIFEST_NAME))
        shutil.rmtree(folder, ignore_errors=False) if folder.exists() else None
        if stage in {"pretext", "extract"}:
            shutil.rmtree(run.root / "data", ignore_errors=True)
    except OSError as error:
        raise WriteError(f"{folder}: cannot remove: {error.strerror or error}") from error
    write_json(record, {"token": assignment.overwrite}, guard)
