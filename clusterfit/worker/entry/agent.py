"""torchrun, in process: its agent keeps the ranks together, and every rank's exit code counts."""

from __future__ import annotations

import logging
import os
import signal
from datetime import timedelta
from types import FrameType
from typing import Any, Final

from torch._C._distributed_c10d import TCPStore
from torch.distributed.elastic.agent.server.api import (
    RunResult,
    SimpleElasticAgent,
    WorkerGroup,
    WorkerSpec,
    WorkerState,
)
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

from clusterfit.errors import (
    KILLED_EXIT_CODE,
    RETRYABLE_EXIT_CODE,
    TERMINATED_EXIT_CODE,
    combine_exit_codes,
)
from clusterfit.worker.entry.local_ranks import LocalRanks
from clusterfit.worker.entry.place import Place
from clusterfit.worker.log import Log
from clusterfit.worker.stopping import STOP_SIGNALS

GRACE_SECONDS: Final = 105
"""Given to ranks between SIGTERM and SIGKILL: the pod's 120 s less what the entry itself needs."""

_RENDEZVOUS_SECONDS: Final = 900
_MONITOR_SECONDS: Final = 0.1


def run_agent(
    place: Place, ranks: LocalRanks, stage: str, writer_token: str, attempt: int, log: Log
) -> int:
    """Run the stage on this node's ranks and return the gang's exit code.

    Permanent codes of any rank win over what their peers died of; see
    `clusterfit.errors.combine_exit_codes`. A rank that was killed before any other ended makes it
    137, by which `clusterfit status` knows that memory may have run out.
    """
    # The agent logs a table of its own for each failure; ours is one line, told by the caller.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    agent = _Agent(place, ranks, stage, writer_token, attempt)
    handlers = {number: signal.signal(number, agent.note_signal) for number in STOP_SIGNALS}
    try:
        agent.run()
        agent.check_signal()
    except SignalException as error:
        log.info("stopped", signal=error.sigval.name)
        return TERMINATED_EXIT_CODE
    except (RuntimeError, OSError) as error:  # the rendezvous: a peer or its port is not there
        log.error(f"rendezvous failed: {error}".splitlines()[0], exit_code=RETRYABLE_EXIT_CODE)
        return RETRYABLE_EXIT_CODE
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    code = combine_exit_codes([code for code in ranks.poll() if code is not None])
    is_killed = agent.has_killed_rank and code == RETRYABLE_EXIT_CODE
    return KILLED_EXIT_CODE if is_killed else code


class _Agent(SimpleElasticAgent):
    """torchrun's agent over ranks that are forked.

    torchrun's own would start a new interpreter for each rank, or report one failed fork of many.
    """

    def __init__(
        self, place: Place, ranks: LocalRanks, stage: str, writer_token: str, attempt: int
    ) -> None:
        rendezvous, self._port_holder = build_rendezvous(place)
        spec = WorkerSpec(
            role="rank",
            local_world_size=place.nproc_per_node,
            rdzv_handler=rendezvous,
            entrypoint="clusterfit.worker.rank",
            max_restarts=0,
            monitor_interval=_MONITOR_SECONDS,
        )
        super().__init__(spec, shutdown_timeout=GRACE_SECONDS)
        self._ranks = ranks
        self._stage = stage
        self._writer_token = writer_token
        self._attempt = attempt
        self._signal: signal.Signals | None = None
        self.has_killed_rank = False
        """Whether somebody else has killed a rank: the kernel, where memory has run out."""

    def note_signal(self, number: int, _frame: FrameType | None) -> None:
        """Keep a signal until it is safe to act on it."""
        self._signal = signal.Signals(number)

    def check_signal(self) -> None:
        """Raise SignalException, which the agent expects, where a signal has come."""
        if self._signal is not None:
            raise SignalException(f"got {self._signal.name}", self._signal)

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        while not self._ranks.wait_until_warm():
            self.check_signal()
        self.check_signal()
        environments = _build_environments(worker_group)
        self._ranks.start(self._stage, self._writer_token, self._attempt, environments)
        return {worker.local_rank: worker.local_rank for worker in worker_group.workers}

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        del worker_group
        self.check_signal()
        codes = self._ranks.poll()
        if any(codes):
            # Looked at now: later there are also those whom the agent itself has killed.
            self.has_killed_rank = -signal.SIGKILL in codes
            return RunResult(WorkerState.FAILED)
        if None in codes:
            return RunResult(WorkerState.HEALTHY)
        return RunResult(WorkerState.SUCCEEDED, return_values=dict.fromkeys(self._global_ranks()))

    def _global_ranks(self) -> list[int]:
        return [worker.global_rank for worker in self._worker_group.workers]

    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        del worker_group
        self._shutdown()

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        del death_sig  # whatever this entry was sent, ranks know one word for stopping
        self._ranks.stop(signal.SIGTERM, timeout)


def build_rendezvous(place: Place) -> tuple[StaticTCPRendezvous, TCPStore | None]:
    """Return torchrun's static rendezvous, and what keeps its port where nobody has named one.

    A free port that is only looked for may be taken by the time it is used. So a store binds one,
    and the rendezvous, whose store may share a port with others of its process, joins it there.
    """
    port_holder = None
    if not place.master_port:
        port_holder = TCPStore(
            place.master_addr,
            0,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=_RENDEZVOUS_SECONDS),
            multi_tenant=True,
        )
    rendezvous = StaticTCPRendezvous(
        place.master_addr,
        port_holder.port if port_holder else place.master_port,
        rank=place.node_rank,
        world_size=place.num_nodes,
        run_id=place.submission,
        timeout=_RENDEZVOUS_SECONDS,
    )
    return rendezvous, port_holder


def _build_environments(worker_group: WorkerGroup) -> list[dict[str, str]]:
    """Return what torchrun tells each rank about its place."""
    spec = worker_group.spec
    return [
        {
            "RANK": str(worker.global_rank),
            "LOCAL_RANK": str(worker.local_rank),
            "WORLD_SIZE": str(worker.world_size),
            "LOCAL_WORLD_SIZE": str(spec.local_world_size),
            "GROUP_RANK": str(worker_group.group_rank),
            "GROUP_WORLD_SIZE": str(worker_group.group_world_size),
            "MASTER_ADDR": str(worker_group.master_addr),
            "MASTER_PORT": str(worker_group.master_port),
            "TORCHELASTIC_RUN_ID": spec.rdzv_handler.get_run_id(),
            "TORCHELASTIC_RESTART_COUNT": "0",
            "TORCHELASTIC_MAX_RESTARTS": "0",
            "TORCHELASTIC_USE_AGENT_STORE": str(spec.rdzv_handler.use_agent_store),
            "TORCH_NCCL_ASYNC_ERROR_HANDLING": os.environ.get(
                "TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"
            ),
        }
        for worker in worker_group.workers
    ]
