"""torchrun, in process: its agent starts the ranks, and every rank's exit code is looked at."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from typing import Final

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from clusterfit.errors import RETRYABLE_EXIT_CODE, TERMINATED_EXIT_CODE, combine_exit_codes
from clusterfit.worker.cores import count_cores
from clusterfit.worker.entry.gang import Place
from clusterfit.worker.log import Log

GRACE_SECONDS: Final = 105
"""Given to ranks between SIGTERM and SIGKILL: the pod's 120 s less what the entry itself needs."""

_RENDEZVOUS_SECONDS: Final = 900

_AGENT_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Those for which torchrun's agent installs handlers, and leaves them behind."""


def run_agent(place: Place, command: list[str], log: Log) -> int:
    """Run the command once for each local rank and return the gang's exit code.

    Permanent codes of any rank win over what their peers died of; see
    `clusterfit.errors.combine_exit_codes`.
    """
    # The agent logs a table of its own for each failure; ours is one line, told by the caller.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, count_cores() // place.nproc_per_node)))
    if place.num_nodes == 1 and sys.platform == "linux":
        # A host name that resolves to nothing, or to another interface, must not matter here.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    # Idle threads of one pool (faiss', torch's) must not spin on the cores that the other needs.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    config = LaunchConfig(
        min_nodes=place.num_nodes,
        max_nodes=place.num_nodes,
        nproc_per_node=place.nproc_per_node,
        run_id=place.submission,
        rdzv_backend="static",
        rdzv_endpoint=f"{place.master_addr}:{place.master_port or _find_free_port()}",
        rdzv_configs={"rank": place.node_rank, "timeout": _RENDEZVOUS_SECONDS},
        max_restarts=0,
        monitor_interval=0.1,
        shutdown_timeout=GRACE_SECONDS,
    )
    executable, *arguments = command
    handlers = {number: signal.getsignal(number) for number in _AGENT_SIGNALS}
    try:
        elastic_launch(config, executable)(*arguments)
    except ChildFailedError as error:
        return combine_exit_codes([failure.exitcode for failure in error.failures.values()])
    except SignalException as error:
        log.info("stopped", signal=error.sigval.name)
        return TERMINATED_EXIT_CODE
    except (RuntimeError, OSError) as error:  # the rendezvous: a peer or its port is not there
        log.error(f"rendezvous failed: {error}".splitlines()[0], exit_code=RETRYABLE_EXIT_CODE)
        return RETRYABLE_EXIT_CODE
    finally:
        for number, handler in handlers.items():  # the agent's would raise from now on, anywhere
            signal.signal(number, handler)
    return 0


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
