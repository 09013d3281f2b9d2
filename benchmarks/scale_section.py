"""The section of docs/benchmarks.md that `benchmarks.scale` computes."""

from __future__ import annotations

from benchmarks import pages
from benchmarks.scale import Cluster as Machines
from benchmarks.scale import (
    Problem,
    find_largest_num_clusters,
    model_balancing,
    model_pass,
    model_two_level_seconds,
)
from benchmarks.tables import table
from clusterfit.config.forecast.centroids import DEVICE_BYTES


def describe_scale() -> str:
    """Return the section."""
    shapes = {
        "ImageNet": (1.281167e6, 2048, 16_000),
        "a hundred million": (1e8, 1024, 100_000),
        "a billion": (1e9, 1024, 1_000_000),
    }
    machines = {"32 of 80 GB": Machines(), "32 of 141 GB": Machines(memory_bytes=141e9)}
    lines = []
    for shape, numbers in shapes.items():
        problem = Problem(*numbers)
        for machine, machines_ in machines.items():
            one = model_pass(problem, machines_)
            lines.append(
                [
                    f"{shape}: {problem.num_rows:,.0f} x {problem.dim}, "
                    f"K = {problem.num_clusters:,}",
                    machine,
                    f"{one.rows_bytes / 1e9:.1f} + {one.state_bytes / 1e9:.1f} "
                    f"+ {one.block_bytes / 1e9:.1f}",
                    "yes" if one.is_resident else "no",
                    f"{one.assignment_seconds:.3g} + {one.update_seconds:.2g} "
                    f"+ {one.reduce_seconds:.2g}",
                    f"{one.host_read_seconds:.3g}",
                    f"{one.storage_read_seconds:.3g}",
                    f"{one.sent_bytes / 1e9:.2f}",
                    f"{model_two_level_seconds(problem, machines_):.3g}",
                ]
            )
    head = ["shape", "GPUs", "GB each: rows + state + products", "rows stay on the GPU",
            "s a pass: products + sums + reduction", "s from host memory", "s from storage",
            "GB sent by a node", "s of a two-level start"]  # fmt: skip
    problem = Problem(*shapes["a billion"])
    most = find_largest_num_clusters(problem, Machines())
    one, balancing = model_pass(problem, Machines()), model_balancing(problem, Machines())
    words = f"""\
Where it breaks, at a billion rows and a million clusters:

- **Memory of 80 GB GPUs.** Rows, centroids and sums together do not fit. Rows then come from host memory in
  {one.host_read_seconds:.1f} s a pass, hidden behind {one.assignment_seconds:.0f} s of products. From shared storage at
  {Machines().storage_bytes / 1e9:g} GB/s a node it would be {one.storage_read_seconds:.0f} s: hosts have to hold their share,
  {8 * one.rows_bytes / 1e9:.0f} GB a node.
- **K.** Centroids, means and sums are whole on every GPU: {DEVICE_BYTES} bytes for each of K D numbers. Above K = {most:,} at D = 1024
  they no longer fit 80 GB, and centroids would have to be sharded over GPUs, which clusterfit does not do.
- **Time.** A pass is {one.seconds:.0f} s, 50 of them {50 * one.seconds / 3600:.1f} h: products, not bytes, are the limit (the
  reduction is {100 * one.reduce_seconds / one.seconds:.1f} % of a pass). A two-level start and 3 passes are
  {(model_two_level_seconds(problem, Machines()) + 3 * one.seconds) / 60:.0f} min.
- **Limited sizes** (`cluster.maxSizeRatio`) add ten iterations and a last auction: {balancing.pass_seconds / 60:.0f} min of passes over the
  rows, and in each auction rounds of bids, in which a node sends up to {balancing.round_bytes / 1e9:.2f} GB: {balancing.exchange_seconds / 60:.1f} min
  where each auction takes 300 rounds and all clusters are full in all of them. Lists are {balancing.lists_bytes / 1e9:.1f} GB on each
  GPU, beside rows that come from host memory anyway."""
    return "\n\n".join([pages.SCALE.strip(), table(head, lines), words])
