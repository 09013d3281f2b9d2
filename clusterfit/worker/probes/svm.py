"""A linear SVM for each class on frozen features, and how well it ranks images.

Source: VISSL's VOC07 protocol, after Goyal et al., arXiv:1905.01235.
N: images, D: feature_dim, C: classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC

from clusterfit.config.sections.evaluation import Svm

_EPSILON: Final = 1e-5
FIT_BYTES: Final = 24
"""Of a fit for each number of its rows: a fold's copy in float64, and liblinear's own of 16."""

_POSITIVE_WEIGHT: Final = 2
"""Of a positive image in the loss, where a negative has 1."""


@dataclass(frozen=True, slots=True)
class ClassResult:
    """One class's SVM."""

    average_precision: float
    """NaN where no val image shows the class."""
    cost: float
    """The C that cross-validation chose."""
    has_converged: bool


def judge_classes(
    train: np.ndarray,  # (N, D)
    train_labels: np.ndarray,  # (N, C) of 1, 0, -1
    val: np.ndarray,
    val_labels: np.ndarray,
    classes: list[int],
    config: Svm,
    seed: int,
    num_threads: int,
    check: Callable[[], None],
) -> list[ClassResult]:
    """Return the results of some classes; each cost of each takes one of the threads.

    What `check` raises before any of them ends all of them.
    """
    train, val = _normalize(train), _normalize(val)

    def find_targets(number: int) -> np.ndarray:
        targets: np.ndarray = np.where(train_labels[:, number] == 1, 1, -1)
        return targets  # difficult images are negatives here

    def build(cost: float) -> LinearSVC:
        check()
        return LinearSVC(
            C=cost,
            class_weight={1: _POSITIVE_WEIGHT, -1: 1},
            dual=True,
            max_iter=config.max_iterations,
            random_state=seed,
        )

    def validate(number: int, cost: float) -> float:
        """Return how well a class is ranked with this cost, the mean over folds."""
        found = cross_val_score(
            build(cost), train, find_targets(number), cv=config.folds, scoring="average_precision"
        )
        return float(found.mean())

    def judge(number: int, cost: float) -> ClassResult:
        """Fit a class on all images, and rank the val images."""
        svm = build(cost).fit(train, find_targets(number))
        is_judged = val_labels[:, number] != -1
        return ClassResult(
            compute_average_precision(
                val_labels[is_judged, number] == 1, svm.decision_function(val[is_judged])
            ),
            cost,
            bool(svm.n_iter_ < config.max_iterations),
        )

    # Outside the threads, because the filters are the process's.
    with warnings.catch_warnings(), ThreadPoolExecutor(num_threads) as pool:
        warnings.simplefilter("ignore", ConvergenceWarning)
        pairs = [(number, cost) for number in classes for cost in config.costs]
        found = list(pool.map(validate, *zip(*pairs, strict=True))) if pairs else []
        scores = np.reshape(found, (len(classes), len(config.costs)))
        costs = [config.costs[best] for best in scores.argmax(1)]
        return list(pool.map(judge, classes, costs))


def compute_average_precision(is_positive: np.ndarray, scores: np.ndarray) -> float:
    """Return the area below precision over recall, precision never rising with recall.

    This is VOC's measure since 2010, and VISSL's: each recall counts with the best precision at it
    or beyond. scikit-learn's average_precision_score takes the precision as it is, so never more.

    Args:
        is_positive: (N,) bool.
        scores: (N,), higher means rather positive; equal scores count as one step.
    """
    if not is_positive.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.nonzero(np.diff(scores[order]))[0], len(order) - 1)
    hits = np.cumsum(is_positive[order])[ends]
    precision = np.maximum.accumulate((hits / (ends + 1))[::-1])[::-1]
    steps = np.diff(hits, prepend=0) / hits[-1]
    return float(precision @ steps)


def _normalize(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float64)
    unit: np.ndarray = wide / (np.linalg.norm(wide, axis=1, keepdims=True) + _EPSILON)
    return unit
