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
    """Return the results of some classes; each fit takes one of the threads.

    What `check` raises before a class or one of its costs ends all of them.
    """
    train, val = _normalize(train), _normalize(val)

    def judge(number: int) -> ClassResult:
        return _judge_class(
            train, train_labels[:, number], val, val_labels[:, number], config, seed, check
        )

    # Outside the threads, because the filters are the process's.
    with warnings.catch_warnings(), ThreadPoolExecutor(num_threads) as pool:
        warnings.simplefilter("ignore", ConvergenceWarning)
        return list(pool.map(judge, classes))


def _judge_class(
    train: np.ndarray,
    train_labels: np.ndarray,
    val: np.ndarray,
    val_labels: np.ndarray,
    config: Svm,
    seed: int,
    check: Callable[[], None],
) -> ClassResult:
    """Choose the cost by cross-validation, fit on all, rank the val images."""
    targets = np.where(train_labels == 1, 1, -1)  # difficult images are negatives here

    def build(cost: float) -> LinearSVC:
        return LinearSVC(
            C=cost,
            class_weight={1: _POSITIVE_WEIGHT, -1: 1},
            dual=True,
            max_iter=config.max_iterations,
            random_state=seed,
        )

    scores = []
    for cost in config.costs:
        check()
        found = cross_val_score(
            build(cost), train, targets, cv=config.folds, scoring="average_precision"
        )
        scores.append(found.mean())
    check()
    cost = config.costs[int(np.argmax(scores))]
    svm = build(cost).fit(train, targets)
    is_judged = val_labels != -1
    return ClassResult(
        compute_average_precision(
            val_labels[is_judged] == 1, svm.decision_function(val[is_judged])
        ),
        cost,
        bool(svm.n_iter_ < config.max_iterations),
    )


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
