"""How much synthetic features are like real ones: spectra and cluster sizes, for the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import faiss
import numpy as np

from benchmarks.data import Data, open_features, read_features
from benchmarks.digits import DIM, NUM_ROWS
from benchmarks.measure import RESULTS, Results

_NUM_CLUSTERS: Final = 256
_SPECTRUM_ROWS: Final = 8192


def compare_features(folder: Path = RESULTS) -> None:
    """Describe both kinds and the one without clusters, in `folder`/data.json."""
    results = Results("data", folder)
    results.content["features"] = {
        kind: describe_features(read_features(open_features(Data(kind, NUM_ROWS, DIM))))
        for kind in ("digits", "relu", "gaussian")
    }
    results.save()


def describe_features(rows: np.ndarray) -> dict[str, Any]:
    """Return what rows (N, D) look like to k-means."""
    sample = rows[:_SPECTRUM_ROWS].astype(np.float64)
    variances = np.linalg.svd(sample - sample.mean(0), compute_uv=False) ** 2
    variances /= variances.sum()
    kmeans = faiss.Kmeans(
        rows.shape[1], _NUM_CLUSTERS, niter=15, seed=1, max_points_per_centroid=10**7
    )
    kmeans.train(rows)
    distances_sq, nearest = kmeans.assign(rows)
    sizes = np.sort(np.bincount(nearest, minlength=_NUM_CLUSTERS))[::-1]
    total = ((rows - rows.mean(0)) ** 2).sum(dtype=np.float64)
    shares = sizes / sizes.sum()
    return {
        "zeros": float((rows == 0).mean()),
        "mean_norm": float(np.linalg.norm(rows.mean(0))),
        "variance_1": float(variances[0]),
        "variance_16": float(variances[:16].sum()),
        "variance_64": float(variances[:64].sum()),
        "slope": float(np.log(variances[255] / variances[7]) / np.log(256 / 8)),
        "imbalance": float(_NUM_CLUSTERS * (shares**2).sum()),
        "explained": float(1 - distances_sq.sum(dtype=np.float64) / total),
        "spectrum": [float(f"{v:.4g}") for v in variances],
        "sizes": sizes.tolist(),
    }
