"""`python -m clusterfit.worker.rank`: one process of the gang, started by the entry's torchrun."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module

from clusterfit.artifacts.owner import Writer
from clusterfit.errors import RETRYABLE_EXIT_CODE, ClusterfitError
from clusterfit.worker.arguments import build_parser, read_assignment
from clusterfit.worker.context import Context
from clusterfit.worker.distenv import PeerFailedError, open_process_group
from clusterfit.worker.log import Log, describe
from clusterfit.worker.orphan import die_with_parent


def main() -> int:
    """Run one rank of a stage and return its exit code."""
    parser = build_parser("clusterfit.worker.rank")
    parser.add_argument("--writer", required=True, help="token of the claim on the run directory")
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True, help="pid of the entry")
    options = parser.parse_args()
    die_with_parent(options.parent)
    rank = int(os.environ["RANK"])
    log = Log(options.stage, rank)
    try:
        assignment = read_assignment(options)
        run = assignment.run
        log = Log(options.stage, rank, run.rank_log(options.stage, options.attempt, rank))
        writer = Writer(run.owner_file, options.writer)
        program = import_module(f"clusterfit.worker.stages.{assignment.stage}")
        with open_process_group(assignment.config.device, options.attempt, log) as env:
            program.run(Context(assignment, env, log, writer))
    except PeerFailedError as error:
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


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of loaders, or of a process group whose peer has died, must not hold the exit back.
    os._exit(code)
