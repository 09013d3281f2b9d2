"""A model on paper: what k-means of a size costs on a number of GPUs, and where it breaks.

Nothing here is measured. The model knows one pass (assignment, sums, one reduction), the memory
that it needs on each GPU, and the rates that are stated with it.

N: rows, D: dimensions, K: num_clusters, P: GPUs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from clusterfit.config.forecast.centroids import DEVICE_BYTES

_BF16_BYTES = 2
_FP32_BYTES = 4
_FP64_BYTES = 8
_INT64_BYTES = 8
_LISTED_BYTES = 300
"""Of a row in an auction: 32 clusters with their distances, its seat and its bid."""
_NUM_DIGITS, _DIGIT_VALUES = 5, 16
"""Of a bid: a round counts how often each value of each digit occurs in each cluster."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """GPUs and what lies between them."""

    gpus: int = 32
    gpus_per_node: int = 8
    memory_bytes: float = 80e9
    flops: float = 0.75 * 790e12
    """Of bf16 products: three quarters of what a large GEMM reaches on an H100-class GPU."""
    memory_bandwidth: float = 3.0e12
    """Bytes a second."""
    node_link_bytes: float = 50e9
    """Bytes a second out of a node and into it: one 400 Gb/s link."""
    storage_bytes: float = 2e9
    """Bytes a second that one node reads from shared storage."""
    host_link_bytes: float = 25e9
    """Bytes a second from a host's memory to one of its GPUs."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is clustered."""

    num_rows: float
    dim: int
    num_clusters: int


@dataclass(frozen=True, slots=True)
class Pass:
    """One full pass over all rows; seconds, and bytes on each GPU."""

    assignment_seconds: float
    update_seconds: float
    reduce_seconds: float
    host_read_seconds: float
    """Rows that do not stay on a GPU, from host memory; 0 where they stay."""
    storage_read_seconds: float
    """The same, from shared storage."""
    rows_bytes: float
    state_bytes: float
    """Centroids, means and sums, whole on every GPU."""
    block_bytes: float
    sent_bytes: float
    """By each node in one reduction of the sums."""

    @property
    def is_resident(self) -> bool:
        """Whether rows stay on the GPUs."""
        return not self.host_read_seconds

    @property
    def seconds(self) -> float:
        """A pass: rows stream while products run, the reduction follows."""
        busy = self.assignment_seconds + self.update_seconds
        return max(busy, self.host_read_seconds) + self.reduce_seconds


def model_pass(problem: Problem, cluster: Cluster) -> Pass:
    """Return what one pass of Lloyd's iteration costs."""
    rows = problem.num_rows / cluster.gpus
    numbers = problem.num_clusters * problem.dim
    rows_bytes = rows * (problem.dim * _BF16_BYTES + _FP32_BYTES + _INT64_BYTES)
    state = numbers * DEVICE_BYTES
    block = 4096 * problem.num_clusters * _BF16_BYTES
    nodes = math.ceil(cluster.gpus / cluster.gpus_per_node)
    sent = 2 * (nodes - 1) / nodes * numbers * _FP64_BYTES  # a ring: reduce-scatter, all-gather
    fits = rows_bytes + state + block < 0.9 * cluster.memory_bytes
    streamed = 0.0 if fits else rows * problem.dim * _BF16_BYTES
    return Pass(
        assignment_seconds=2 * rows * numbers / cluster.flops,
        update_seconds=rows * problem.dim * (_BF16_BYTES + 2 * _FP64_BYTES)
        / cluster.memory_bandwidth,
        reduce_seconds=sent / cluster.node_link_bytes,
        host_read_seconds=streamed / cluster.host_link_bytes,
        storage_read_seconds=streamed * cluster.gpus_per_node / cluster.storage_bytes,
        rows_bytes=rows_bytes,
        state_bytes=state,
        block_bytes=block,
        sent_bytes=sent,
    )  # fmt: skip


def model_two_level_seconds(problem: Problem, cluster: Cluster, iterations: int = 5) -> float:
    """Return the seconds of a two-level start: each row meets sqrt(K) centroids at a time."""
    cells = math.sqrt(problem.num_clusters)
    inner = Problem(problem.num_rows, problem.dim, round(cells))
    one = model_pass(inner, cluster)
    reduce_all = model_pass(problem, cluster).reduce_seconds
    coarse = one.assignment_seconds + one.update_seconds + one.reduce_seconds
    return iterations * coarse + iterations * (coarse + reduce_all)


@dataclass(frozen=True, slots=True)
class Balancing:
    """What a limit of the clusters' sizes adds to a fit; seconds, and bytes on each GPU."""

    pass_seconds: float
    """Passes over all rows: one for each iteration, two for the last assignment."""
    exchange_seconds: float
    """Sizes and digits of bids, in each round of each auction."""
    lists_bytes: float
    round_bytes: float
    """Sent by each node in a round."""


def model_balancing(
    problem: Problem, cluster: Cluster, iterations: int = 10, rounds: int = 300
) -> Balancing:
    """Return what balancing costs where auctions take so many rounds, all clusters in each."""
    one = model_pass(problem, cluster)
    nodes = math.ceil(cluster.gpus / cluster.gpus_per_node)
    numbers = (2 + _NUM_DIGITS * _DIGIT_VALUES) * problem.num_clusters
    sent = 2 * (nodes - 1) / nodes * numbers * _INT64_BYTES
    return Balancing(
        pass_seconds=(iterations + 2) * one.seconds,
        exchange_seconds=(iterations + 1) * rounds * sent / cluster.node_link_bytes,
        lists_bytes=problem.num_rows / cluster.gpus * _LISTED_BYTES,
        round_bytes=sent,
    )


def find_largest_num_clusters(problem: Problem, cluster: Cluster) -> int:
    """Return the largest K whose centroids and sums fit a GPU beside its rows' stream."""
    each = problem.dim * DEVICE_BYTES + 4096 * _BF16_BYTES
    return int(0.9 * cluster.memory_bytes / each)
