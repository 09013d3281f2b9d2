"""What the options of an iteration are worth: the defaults of docs/kmeans.md come from here."""

from __future__ import annotations

from itertools import product
from typing import Any, Final

import numpy as np
import torch

from benchmarks.cases import Case, find_case
from benchmarks.data import draw_initial_centroids, open_features
from clusterfit.artifacts.parts import FeatureTable
from clusterfit.config.sections.clustering import Cluster
from clusterfit.worker.cores import count_cores
from clusterfit.worker.kmeans.engine import Fit
from clusterfit.worker.kmeans.exact import SAMPLED_ROWS
from clusterfit.worker.kmeans.rows import CHUNK_ROWS, Rows, read_evenly
from clusterfit.worker.kmeans.torch_engine import TorchEngine

_ITERATIONS: Final = (12, 24)
_TRIED: Final[list[dict[str, Any]]] = [
    *({"relaxation": relaxation} for relaxation in (1.0, 1.5, 1.8)),
    {"num_candidates": 8},
]


def compare_options(names: list[str]) -> None:
    """Print the objective a row after so many iterations, for each of some fit cases."""
    torch.set_num_threads(count_cores())
    for case in (find_case(name) for name in names if name.startswith("fit-")):
        plain = {"init": "random", "relaxation": 1.0, "num_candidates": 0}
        print(f"{case.name}, drawn rows, 25 of Lloyd's: {_fit(case, 25, plain):.6g}", flush=True)
        for options, count in product(_TRIED, _ITERATIONS):
            said = ", ".join(f"{name} {value}" for name, value in options.items())
            print(f"{case.name}, {said}, {count}: {_fit(case, count, options):.6g}", flush=True)


def _fit(case: Case, num_iterations: int, options: dict[str, Any]) -> float:
    folder = open_features(case.data)
    config = Cluster(
        num_clusters=case.num_clusters,
        num_iterations=num_iterations,
        normalize=False,
        stop_improvement=0,
        **options,
    )
    rows = Rows(FeatureTable(folder), config, None)
    start = None
    if config.init == "random":
        start = Fit(draw_initial_centroids(folder, case.num_clusters, 0))
    centroids = TorchEngine().fit(rows, config, 0, start, lambda _fit: None).centroids
    sample = read_evenly(rows, 0, rows.num_rows, SAMPLED_ROWS)
    assigner = TorchEngine().build_assigner(centroids, sample)
    return (
        sum(
            float(assigner.assign(chunk).distances_sq.sum(dtype=np.float64))
            for chunk in (
                rows.read(first, min(first + CHUNK_ROWS, rows.num_rows))
                for first in range(0, rows.num_rows, CHUNK_ROWS)
            )
        )
        / rows.num_rows
    )
