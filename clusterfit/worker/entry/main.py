"""The container's first process: claims the run, starts torchrun's agent, answers for its ranks.

Node 0's entry prepares what the ranks need (the claim, the attempt's number, the data set's order),
so that a stage program reads top to bottom. torchrun itself always exits 1; this entry looks at
every failed rank and exits with the code that decides whether another attempt makes sense.
"""

from __future__ import annotations

import os
import signal
import traceback
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from types import FrameType
from typing import NoReturn

from clusterfit.artifacts.files import remove_partial_files, write_json
from clusterfit.artifacts.owner import Writer, claim
from clusterfit.errors import (
    EXIT_CODE_MEANINGS,
    RETRYABLE_EXIT_CODE,
    TERMINATED_EXIT_CODE,
    ClusterfitError,
    ConfigError,
    NoProgressError,
)
from clusterfit.worker.arguments import Assignment, build_parser, read_assignment
from clusterfit.worker.entry.attempts import (
    Attempt,
    end_submission,
    forgive_attempt,
    plan_attempt,
    record_attempt,
)
from clusterfit.worker.entry.gang import Gang
from clusterfit.worker.entry.local_ranks import LocalRanks
from clusterfit.worker.entry.nproc import settle_nproc
from clusterfit.worker.entry.overwrite import (
    forget_samples,
    is_overwrite_pending,
    remove_artifacts,
)
from clusterfit.worker.entry.place import Place, read_place
from clusterfit.worker.entry.samples import find_samples, fix_samples
from clusterfit.worker.identity import is_stage_finished
from clusterfit.worker.log import Log, describe
from clusterfit.worker.orphan import die_with_parent
from clusterfit.worker.versions import read_versions


def main() -> int:
    """Run this node's share of one stage, or here of several, and return the exit code."""
    signal.signal(signal.SIGTERM, _exit_terminated)  # PID 1 has no default handler
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])  # it was held back for the handler
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever ignores it learns no exit codes
    options = build_parser().parse_args()
    if options.stop_with_parent:
        die_with_parent(options.stop_with_parent)
    log = Log(options.stages[0], rank=None)
    try:
        first = read_assignment(options)
        settle_nproc(os.environ, first.config.device)
        place = read_place(os.environ)
        if len(options.stages) > 1 and place.num_nodes > 1:
            raise ConfigError(
                f"got the stages {', '.join(options.stages)}: with PET_NNODES > 1 each stage is a "
                "worker of its own"
            )
        with LocalRanks(first, options.stages, place) as ranks:
            for stage in options.stages:
                log = Log(stage, rank=None)
                log.info("started")
                if code := _run_stage(replace(first, stage=stage), place, ranks, log):
                    return code
    except ClusterfitError as error:
        for fault in error.faults:
            log.error(fault, exit_code=error.exit_code)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - Python's own code, 1, would be taken for permanent
        traceback.print_exc()
        log.error(describe(error), exit_code=RETRYABLE_EXIT_CODE)
        return RETRYABLE_EXIT_CODE
    return 0


def _run_stage(assignment: Assignment, place: Place, ranks: LocalRanks, log: Log) -> int:
    if place.node_rank == 0:
        return _lead(assignment, place, ranks, log)
    if _is_known_finished(assignment, place):
        log.info("already finished")
        return 0
    ranks.warm_up(nullcontext)
    with Gang.join(place, log) as gang:
        code = _run_ranks(assignment, ranks, gang, log)
        return gang.leave(code)


def _is_known_finished(assignment: Assignment, place: Place) -> bool:
    """Tell whether this node can already see that there is nothing to do.

    It may look before node 0 has listed the images or removed what is to be done again, so what it
    misses is no fault: node 0 is the judge of the run directory.
    """
    if is_overwrite_pending(assignment):
        return False
    try:
        return is_stage_finished(assignment, place.world_size)
    except ClusterfitError:
        return False


def _lead(assignment: Assignment, place: Place, ranks: LocalRanks, log: Log) -> int:
    """Do what is done once for all nodes, then run this node's ranks."""
    run, stage = assignment.run, assignment.stage
    writer = claim(run, stage, place.submission, log.warning)
    writer.start_heartbeat()
    try:
        remove_partial_files(run.root)
        # Cluster reads features alone, and needs no images to be there.
        found = {} if stage == "cluster" else find_samples(assignment, place.world_size)
        forget_samples(assignment, writer.check)
        fix_samples(assignment, found, log, writer.check)
        remove_artifacts(assignment, place.world_size, log, writer.check)
        if is_stage_finished(assignment, place.world_size):
            log.info("already finished", folder=run.stage(stage))
            return 0
        _write_run_file(assignment, writer)
        try:
            attempt = plan_attempt(run, stage, place.submission)
        except NoProgressError:
            end_submission(run, stage, writer.check)
            raise
        gang: Gang | None = None
        try:
            # First of all: what ends while torch is imported was an attempt too.
            record_attempt(run, stage, attempt, writer.check)
            ranks.warm_up(writer.heartbeat_paused)
            with Gang.host(place, writer.token, attempt.number, log) as gang:
                code = gang.leave(_run_ranks(assignment, ranks, gang, log))
        except SystemExit:  # SIGTERM where no rank can be told: before they start, or after
            code = TERMINATED_EXIT_CODE
        if code == TERMINATED_EXIT_CODE and not (gang and gang.is_broken_by_failure):
            forgive_attempt(run, stage, attempt, writer.check)
        if code:
            log.error(_explain(code, attempt), exit_code=code)
        return code
    finally:
        writer.release()


def _run_ranks(assignment: Assignment, ranks: LocalRanks, gang: Gang, log: Log) -> int:
    """Run this node's ranks under torchrun's agent and return their common exit code."""
    # torch: paid only where there is work to do
    from clusterfit.worker.entry.agent import run_agent

    return run_agent(
        gang.place, ranks, assignment.stage, gang.writer_token, gang.attempt_number, log
    )


def _write_run_file(assignment: Assignment, writer: Writer) -> None:
    record = {
        "config": assignment.config.dump(),
        "versions": read_versions(),
        "host": os.uname().nodename,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(assignment.run.run_file, record, writer.check)


def _explain(code: int, attempt: Attempt) -> str:
    meaning = EXIT_CODE_MEANINGS.get(code, EXIT_CODE_MEANINGS[RETRYABLE_EXIT_CODE])
    return f"attempt {attempt.number}: {meaning}"


def _exit_terminated(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(TERMINATED_EXIT_CODE)
