"""One process of the gang, from its first line to its exit code."""

from __future__ import annotations

import os
import traceback
from importlib import import_module

from clusterfit.artifacts.owner import Writer
from clusterfit.errors import RETRYABLE_EXIT_CODE, ClusterfitError, TerminatedError
from clusterfit.worker.arguments import Assignment
from clusterfit.worker.context import Context
from clusterfit.worker.distenv import PeerFailedError, open_process_group
from clusterfit.worker.log import Log, describe


def run_rank(assignment: Assignment, writer_token: str, attempt: int) -> int:
    """Run one rank of a stage, the one that torchrun's environment names; return its exit code."""
    run, stage, rank = assignment.run, assignment.stage, int(os.environ["RANK"])
    log = Log(stage, rank, run.rank_log(stage, attempt, rank))
    try:
        program = import_module(f"clusterfit.worker.stages.{stage}")
        with open_process_group(assignment.config.device, attempt, log) as env:
            program.run(Context(assignment, env, log, Writer(run.owner_file, writer_token)))
    except (PeerFailedError, TerminatedError) as error:  # nothing is wrong with this rank
        log.warning(str(error), exit_code=error.exit_code)
        return error.exit_code
    except ClusterfitError as error:
        for fault in error.faults:
            log.error(fault, exit_code=error.exit_code)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the process ends here: whatever it was, it is told
        traceback.print_exc()
        log.error(describe(error), exit_code=RETRYABLE_EXIT_CODE)
        return RETRYABLE_EXIT_CODE
    return 0
