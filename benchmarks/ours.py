"""clusterfit's engines, as the cluster stage calls them: rows come from the feature parts on disk.

Reading them is inside the measured time, while peers are given theirs in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.data import ROWS_PER_PART
from benchmarks.programs import Inputs, Outcome
from clusterfit.artifacts.parts import FeatureTable
from clusterfit.config.sections.clustering import Cluster
from clusterfit.worker.kmeans import arithmetic
from clusterfit.worker.kmeans.arithmetic import choose_arithmetic
from clusterfit.worker.kmeans.assignment import Scorer
from clusterfit.worker.kmeans.engine import Fit
from clusterfit.worker.kmeans.exact import SAMPLED_ROWS
from clusterfit.worker.kmeans.rows import CHUNK_ROWS, Rows, read_evenly
from clusterfit.worker.kmeans.sums import ClusterSums
from clusterfit.worker.kmeans.torch_engine import TorchEngine

_CHOSEN: Final = ("num_candidates", "relaxation")
"""Settings that an attempt may change."""


def clusterfit_fit(inputs: Inputs, options: Mapping[str, Any]) -> Outcome:
    """Fit with the torch engine: from its own two-level start, or from the given centroids."""
    torch.set_num_threads(inputs.num_threads)
    start = Fit(inputs.centroids, ()) if options.get("init") == "given" else None
    config = _configure(inputs, options)
    rows = Rows(FeatureTable(inputs.folder), config, None)
    engine = TorchEngine()
    with _arithmetic(options):
        fit = engine.fit(rows, config, inputs.seed, start, lambda _fit: None)
    return Outcome(fit.centroids, {"iterations": fit.num_iterations, "how": engine.describe()})


def clusterfit_assign(inputs: Inputs, options: Mapping[str, Any]) -> Outcome:
    """Assign exactly, as the stage's last pass does."""
    torch.set_num_threads(inputs.num_threads)
    table = FeatureTable(inputs.folder)
    rows = Rows(table, Cluster(normalize=False), None)
    assignments = np.empty(table.num_rows, np.int64)
    with _arithmetic(options):
        sample = read_evenly(rows, 0, table.num_rows, SAMPLED_ROWS)
        assigner = TorchEngine().build_assigner(inputs.centroids, sample)
        for first, chunk in table.chunks(0, table.num_rows, ROWS_PER_PART):
            found = assigner.assign(chunk)
            assignments[first : first + len(chunk)] = found.assignments
    return Outcome(assignments)


def clusterfit_iterate(inputs: Inputs, options: Mapping[str, Any]) -> Outcome:  # noqa: ARG001
    """Assign by rounded products and without the re-check, rows in memory as iterations have them.

    Rows are centred and rounded once, in the first use, which is not reported.
    """
    torch.set_num_threads(inputs.num_threads)
    chosen = choose_arithmetic(torch.device("cpu"), inputs.centroids.shape[1])
    if "rounded" not in inputs.kept:
        mean = inputs.centroids.mean(0)
        inputs.kept["rounded"] = chosen.prepare(torch.from_numpy(inputs.rows - mean))
        inputs.kept["centroids"] = torch.from_numpy(inputs.centroids - mean)
    rows = inputs.kept["rounded"]
    scorer = Scorer(inputs.kept["centroids"], chosen)
    return Outcome(scorer.assign(rows).numpy())


def clusterfit_update(inputs: Inputs, options: Mapping[str, Any]) -> Outcome:  # noqa: ARG001
    """Add rows up by cluster, as iterations do: exactly, in float64, rows in bfloat16."""
    torch.set_num_threads(inputs.num_threads)
    chosen = choose_arithmetic(torch.device("cpu"), inputs.centroids.shape[1])
    if not inputs.kept:
        rows = torch.from_numpy(inputs.rows).to(chosen.dtype)
        inputs.kept["rows"] = rows
        inputs.kept["norms_sq"] = rows.float().square().sum(1)
        assigner = TorchEngine().build_assigner(inputs.centroids, inputs.rows[:SAMPLED_ROWS])
        found = assigner.assign(inputs.rows)
        inputs.kept["assignments"] = torch.from_numpy(found.assignments)
    totals = ClusterSums.empty(torch.from_numpy(inputs.centroids), chosen.device)
    for first in range(0, len(inputs.rows), CHUNK_ROWS):
        mine = slice(first, first + CHUNK_ROWS)
        totals.include(
            inputs.kept["rows"][mine], inputs.kept["norms_sq"][mine],
            inputs.kept["assignments"][mine], chosen,
        )  # fmt: skip
    return Outcome(totals.sums.numpy())


def _configure(inputs: Inputs, options: Mapping[str, Any]) -> Cluster:
    """Return settings for exactly so many iterations: budgets are the benchmark's to choose."""
    return Cluster(
        num_clusters=len(inputs.centroids),
        num_iterations=options["iterations"],
        normalize=False,
        stop_improvement=0,
        **{name: options[name] for name in _CHOSEN if name in options},
    )


def _arithmetic(options: Mapping[str, Any]) -> AbstractContextManager[object]:
    """Let the engine choose, or where asked choose as on a machine that has float32 only."""
    if options.get("arithmetic") == "fp32":
        forced = torch.float32, "float32: as the benchmark asks"
        return patch(f"{arithmetic.__name__}.find_fast_products", return_value=forced)
    return nullcontext()
