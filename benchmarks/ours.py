"""clusterfit's engines, as the cluster stage calls them: rows come from the feature parts on disk.

Reading them is inside the measured time, while peers are given theirs in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.data import ROWS_PER_PART
from benchmarks.programs import Inputs, Outcome
from clusterfit.artifacts.parts import FeatureTable
from clusterfit.config.tree import Cluster
from clusterfit.worker.kmeans import torch_engine
from clusterfit.worker.kmeans.arithmetic import Arithmetic, choose_arithmetic
from clusterfit.worker.kmeans.assignment import Scorer
from clusterfit.worker.kmeans.engine import Fit
from clusterfit.worker.kmeans.rows import CHUNK_ROWS, Rows
from clusterfit.worker.kmeans.sums import ClusterSums
from clusterfit.worker.kmeans.torch_engine import TorchEngine


def clusterfit_fit(inputs: Inputs, options: Mapping[str, Any]) -> Outcome:
    """Fit with the torch engine: from its own two-level start, or from the given centroids."""
    _prepare(inputs, options)
    start = Fit(inputs.centroids, ()) if options.get("init") == "given" else None
    config = _configure(inputs, options)
    rows = Rows(FeatureTable(inputs.folder), config, None)
    engine = TorchEngine()
    fit = engine.fit(rows, config, inputs.seed, start, lambda _fit: None)
    return Outcome(fit.centroids, {"iterations": fit.num_iterations, "how": engine.describe()})


def clusterfit_assign(inputs: Inputs, options: Mapping[str, Any]) -> Outcome:
    """Assign exactly, as the stage's last pass does."""
    _prepare(inputs, options)
    table = FeatureTable(inputs.folder)
    engine = TorchEngine()
    assignments = np.empty(table.num_rows, np.int64)
    for first, chunk in table.chunks(0, table.num_rows, ROWS_PER_PART):
        assignments[first : first + len(chunk)] = engine.assign(chunk, inputs.centroids).assignments
    return Outcome(assignments)


def clusterfit_iterate(inputs: Inputs, options: Mapping[str, Any]) -> Outcome:
    """Assign in bfloat16 and without the re-check, as iterations do, rows in memory as theirs are.

    Rows are centred and rounded once, in the first use, which is not reported.
    """
    _prepare(inputs, options)
    arithmetic = choose_arithmetic(torch.device("cpu"), inputs.centroids.shape[1])
    if "rounded" not in inputs.kept:
        mean = inputs.centroids.mean(0)
        inputs.kept["rounded"] = torch.from_numpy(inputs.rows - mean).to(arithmetic.dtype)
        inputs.kept["centroids"] = torch.from_numpy(inputs.centroids - mean)
    rows = inputs.kept["rounded"]
    scorer = Scorer(inputs.kept["centroids"], arithmetic)
    return Outcome(scorer.assign(rows).numpy())


def clusterfit_update(inputs: Inputs, options: Mapping[str, Any]) -> Outcome:
    """Add rows up by cluster, as iterations do: exactly, in float64, rows in bfloat16."""
    _prepare(inputs, options)
    arithmetic = choose_arithmetic(torch.device("cpu"), inputs.centroids.shape[1])
    if not inputs.kept:
        rows = torch.from_numpy(inputs.rows).to(arithmetic.dtype)
        inputs.kept["rows"] = rows
        inputs.kept["norms_sq"] = rows.float().square_().sum(1)
        scorer = Scorer(torch.from_numpy(inputs.centroids), arithmetic)
        inputs.kept["assignments"] = scorer.assign(rows)
    totals = ClusterSums.empty(*inputs.centroids.shape, device=arithmetic.device)
    for first in range(0, len(inputs.rows), CHUNK_ROWS):
        mine = slice(first, first + CHUNK_ROWS)
        totals.include(
            inputs.kept["rows"][mine], inputs.kept["norms_sq"][mine],
            inputs.kept["assignments"][mine], arithmetic,
        )  # fmt: skip
    return Outcome(None)


def _configure(inputs: Inputs, options: Mapping[str, Any]) -> Cluster:
    stops = {"stop_improvement": 0.0} if options.get("init") == "given" else {}
    return Cluster(
        num_clusters=len(inputs.centroids),
        num_iterations=options["iterations"],
        normalize=False,
        **stops,
    )


def _prepare(inputs: Inputs, options: Mapping[str, Any]) -> None:
    torch.set_num_threads(inputs.num_threads)
    if options.get("arithmetic") == "fp32":
        _force_fp32()


def _force_fp32() -> None:
    """Choose as on a machine without fast bfloat16."""

    def choose(device: torch.device, dim: int) -> Arithmetic:
        chosen = choose_arithmetic(device, dim)
        return replace(chosen, dtype=torch.float32, reason="float32: forced by the benchmark")

    torch_engine.choose_arithmetic = choose
