"""What k-means' ranks tell each other: sums, and nothing of the rows' size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True, slots=True)
class Ranks:
    """One rank among its peers; alone, nothing is sent."""

    rank: int = 0
    world_size: int = 1

    def share(self, total: int) -> tuple[int, int]:
        """Return this rank's contiguous share of 0..total-1 as (start, stop)."""
        return total * self.rank // self.world_size, total * (self.rank + 1) // self.world_size

    def add(self, *tensors: torch.Tensor) -> None:
        """Replace each tensor by its sum over ranks."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def take_minimum(self, tensor: torch.Tensor) -> None:
        """Replace each number of a tensor by the least of any rank."""
        if self.world_size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MIN)

    def count(self, number: int) -> int:
        """Return the sum over ranks of a number."""
        if self.world_size == 1:
            return number
        total = torch.tensor([number])
        dist.all_reduce(total)
        return int(total.item())

    def take_rank_0s(self, *tensors: torch.Tensor) -> None:
        """Replace each tensor by rank 0's."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def find_maximum(self, value: float) -> float:
        """Return the largest value of any rank."""
        if self.world_size == 1:
            return value
        most = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return float(most.item())
