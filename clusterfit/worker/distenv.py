"""The process group: who am I among how many, on which device, and how do we agree."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from clusterfit.errors import ClusterfitError, RetryableError
from clusterfit.worker.log import Log
from clusterfit.worker.stopping import StopRequest

_T = TypeVar("_T")

_TIMEOUT = timedelta(minutes=30)
"""Of any one collective: longer than the slowest rank may lag, such as one that fits k-means."""

_WAIT_SECONDS: Final = 0.2


class PeerFailedError(RetryableError):
    """This rank lost another one, which has told why it went."""


@dataclass(frozen=True, slots=True)
class DistEnv:
    """One rank's view of the gang."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device
    store: Store
    """Shared by the ranks of this attempt."""
    control: Any
    """A gloo group for small agreements on the CPU, whatever the device."""
    stop: StopRequest

    @property
    def is_main_rank(self) -> bool:
        """Whether this is rank 0, which writes what is written once."""
        return self.rank == 0

    def agree_to_stop(self) -> bool:
        """Tell whether any rank was asked to stop; every rank must call it at the same step."""
        return bool(self.find_maximum(int(self.stop.is_set)))

    def broadcast_object(self, value: Any) -> Any:
        """Return rank 0's value on every rank."""
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def wait_for_object(self, key: str, value: Any) -> Any:
        """Return rank 0's value on every rank, however long it takes rank 0 to have it.

        A collective would time out, and would not hear SIGTERM. Values must not be None.
        """
        if self.is_main_rank:
            self.store.set(key, "ready")
        else:
            while not self.store.check([key]):
                self.stop.check()
                time.sleep(_WAIT_SECONDS)
        return self.broadcast_object(value)

    def wait_for_everyone(self, key: str, tell: Callable[[], None]) -> None:
        """Wait until every rank has come here, however long the last one takes.

        As in `wait_for_object`, no collective. `tell` is called at each look.
        """
        self.store.add(key, 1)
        while self.store.add(key, 0) < self.world_size:
            self.stop.check()
            tell()
            time.sleep(_WAIT_SECONDS)

    def wait_until(self, is_so: Callable[[], bool], seconds: float) -> bool:
        """Return whether it is so now, or within about so many seconds."""
        for _ in range(round(seconds / _WAIT_SECONDS)):
            if is_so():
                return True
            self.stop.check()
            time.sleep(_WAIT_SECONDS)
        return is_so()

    @property
    def threads_per_rank(self) -> int:
        """Threads that this rank may use while the others work too."""
        return torch.get_num_threads()

    def sum_tensor(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of a small tensor over ranks, on the CPU in float64."""
        total = values.detach().to("cpu", torch.float64, copy=True)
        dist.all_reduce(total, group=self.control)
        return total

    def find_maximum(self, value: int) -> int:
        """Return the largest value of any rank."""
        most = torch.tensor([value])
        dist.all_reduce(most, dist.ReduceOp.MAX, group=self.control)
        return int(most.item())

    def merge(self, found: Mapping[int, _T]) -> dict[int, _T]:
        """Return what is in any rank's map, the same on every rank."""
        maps: list[Any] = [None] * self.world_size
        dist.all_gather_object(maps, dict(found), group=self.control)
        return {key: value for each in maps for key, value in each.items()}

    def barrier(self) -> None:
        """Wait for every rank."""
        dist.barrier(group=self.control)


@contextmanager
def open_process_group(device: Literal["cuda", "cpu"], attempt: int, log: Log) -> Iterator[DistEnv]:
    """Join the gang that torchrun's environment describes, and leave it at the end.

    SIGTERM becomes a flag only inside: joining waits for peers, in calls that no flag ends.

    Raises:
        RetryableError: when a GPU is asked for and this process sees none for itself.
        PeerFailedError: when this rank failed only after another one.
    """
    local_rank = int(os.environ["LOCAL_RANK"])
    if device == "cuda":
        num_gpus = torch.cuda.device_count()
        if num_gpus <= local_rank:
            raise RetryableError(
                f"device: cuda is asked for, but local rank {local_rank} sees {num_gpus} GPUs; "
                "where that is meant, say `device: cpu` (--set device='\"cpu\"')"
            )
        torch.cuda.set_device(local_rank)
    target = torch.device(device, local_rank) if device == "cuda" else torch.device("cpu")
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    store, rank, world_size = next(iter(rendezvous("env://", timeout=_TIMEOUT)))
    dist.init_process_group(
        backend,
        store=PrefixStore(f"attempt-{attempt}/group", store),
        rank=rank,
        world_size=world_size,
        timeout=_TIMEOUT,
        device_id=target if device == "cuda" else None,
    )
    try:
        control = dist.new_group(backend="gloo", timeout=_TIMEOUT)
        if rank == 0:
            log.info(
                "process group",
                world_size=world_size,
                backend=backend,
                device=device,
                threads_per_rank=torch.get_num_threads(),
                torch=torch.__version__,
            )
        yield DistEnv(
            rank=rank,
            local_rank=local_rank,
            world_size=world_size,
            device=target,
            store=PrefixStore(f"attempt-{attempt}/stage", store),
            control=control,
            stop=StopRequest(),
        )
    except Exception as error:
        first = _claim_first_failure(store, attempt, rank)
        if first != rank and not isinstance(error, ClusterfitError):
            # It lost a peer that has told why it went: nobody needs this one's traceback.
            raise PeerFailedError(f"rank {first} failed first") from error
        raise
    finally:
        dist.destroy_process_group()


def _claim_first_failure(store: Store, attempt: int, rank: int) -> int:
    """Return the rank that failed first, which is this one unless another has said so before."""
    try:
        key = f"attempt-{attempt}/failed"
        return int(store.compare_set(key, "", str(rank)))
    except RuntimeError:  # torchrun's agent, which keeps the store, is gone
        return rank
