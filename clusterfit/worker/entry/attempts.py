"""Counting attempts that move nothing forward, so that a crash loop ends."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Final

from pydantic import TypeAdapter, ValidationError

from clusterfit.artifacts.files import Guard, find_visible_files, read_json, write_json
from clusterfit.artifacts.layout import RunDirectory
from clusterfit.errors import InvalidDataError, MissingInputError, NoProgressError

MAX_STALLED_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a stage, as node 0 counts it."""

    number: int
    """Counted from 1 over the life of the run directory: the name of its log folder."""
    stalled: int
    """Tries of this submission, this one included, since the stage last moved forward."""
    submission: str
    marker: str
    """Digest of what was on disk when the try began."""


_ATTEMPT: Final = TypeAdapter(Attempt)


def plan_attempt(run: RunDirectory, stage: str, submission: str) -> Attempt:
    """Return the try that comes next; `record_attempt` makes it count.

    Raises:
        NoProgressError: when this submission has already tried three times from where it stands.
        InvalidDataError: when the file that counts is damaged.
    """
    marker = _compute_marker(run, stage)
    try:
        last = _read(run, stage)
    except MissingInputError:
        last = Attempt(number=0, stalled=0, submission=submission, marker=marker)
    is_stalled = last.submission == submission and last.marker == marker
    stalled = last.stalled + 1 if is_stalled else 1
    if stalled > MAX_STALLED_ATTEMPTS:
        raise NoProgressError(
            f"{stage}: {MAX_STALLED_ATTEMPTS} attempts in a row made no progress; read the log of "
            f"attempt {last.number} (logs/{stage}/attempt-{last.number}), mend the cause, submit "
            "again"
        )
    return Attempt(last.number + 1, stalled, submission, marker)


def record_attempt(run: RunDirectory, stage: str, attempt: Attempt, guard: Guard) -> None:
    """Let a try count from now on."""
    write_json(run.attempts_file(stage), asdict(attempt), guard)


def end_submission(run: RunDirectory, stage: str, guard: Guard) -> None:
    """Count from zero again once `plan_attempt` has refused.

    Whoever submits once more, even the very same, has mended something.
    """
    last = _read(run, stage)
    record_attempt(run, stage, replace(last, stalled=0), guard)


def forgive_attempt(run: RunDirectory, stage: str, attempt: Attempt, guard: Guard) -> None:
    """Take back that a try stalled, whether it was recorded by then or not: SIGTERM ended it."""
    record_attempt(run, stage, replace(attempt, stalled=attempt.stalled - 1), guard)


def _read(run: RunDirectory, stage: str) -> Attempt:
    path = run.attempts_file(stage)
    content = read_json(path)
    try:
        return _ATTEMPT.validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        raise InvalidDataError(f"{path}: does not count attempts; delete it") from error


def _compute_marker(run: RunDirectory, stage: str) -> str:
    digest = hashlib.sha256()
    for path in find_visible_files(run.stage(stage)):
        if path.suffix != ".jsonl":  # a line about an epoch is no progress, its checkpoint is
            digest.update(f"{path.relative_to(run.root)}={path.stat().st_size}\n".encode())
    return digest.hexdigest()
