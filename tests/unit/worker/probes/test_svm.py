"""SVMs and their measure against scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.preprocessing import normalize
from sklearn.svm import LinearSVC

from clusterfit.config.sections.evaluation import Svm
from clusterfit.errors import InvalidDataError, TerminatedError
from clusterfit.worker.limits import check_positives
from clusterfit.worker.probes.svm import compute_average_precision, judge_classes

NUM_CLASSES = 3


def draw(seed: int, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows in which three overlapping classes show, and (N, 3) labels with some -1."""
    random = np.random.default_rng(seed)
    labels = (random.random((num_rows, NUM_CLASSES)) < [0.5, 0.3, 0.2]).astype(np.int64)
    means = np.random.default_rng(0).normal(size=(NUM_CLASSES, 12))
    rows = labels @ means + 1.5 * random.normal(size=(num_rows, 12))
    labels[random.random(labels.shape) < 0.05] = -1
    return rows.astype(np.float32), labels


def go_on() -> None:
    """Let fits begin."""


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=40).filter(
        lambda pairs: any(positive for positive, _ in pairs)
    )
)
def test_average_precision_is_the_area_below_scikit_learns_curve(
    pairs: list[tuple[bool, int]],
) -> None:
    positive, scores = (np.array(column) for column in zip(*pairs, strict=True))
    found = compute_average_precision(positive, scores.astype(float))
    precision, recall, _ = precision_recall_curve(positive, scores)
    best = np.maximum.accumulate(precision)  # recall falls along the curve
    assert found == pytest.approx(float(-(np.diff(recall) * best[:-1]).sum()))
    plain = average_precision_score(positive, scores)
    assert found >= plain - 1e-12
    if np.all(np.diff(precision[:-1]) >= 0):  # nothing to smooth: the two are one
        assert found == pytest.approx(plain)


def test_a_class_that_nobody_shows_has_no_precision() -> None:
    assert np.isnan(compute_average_precision(np.zeros(3, bool), np.arange(3.0)))


def test_svms_are_chosen_and_judged_as_by_scikit_learn() -> None:
    train, train_labels = draw(1, 240)
    val, val_labels = draw(2, 500)
    config = Svm(costs=(10.0, 0.3, 0.01))
    judged = judge_classes(
        train, train_labels, val, val_labels, [0, 1, 2], config, 5, num_threads=2, check=go_on
    )
    for number, result in enumerate(judged):
        svm = LinearSVC(class_weight={1: 2}, max_iter=2000, random_state=5, dual=True)
        search = GridSearchCV(
            svm, {"C": config.costs}, scoring="average_precision", cv=StratifiedKFold(3)
        )
        targets = np.where(train_labels[:, number] == 1, 1, -1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            search.fit(normalize(train.astype(np.float64)), targets)
        assert result.cost == search.best_params_["C"]
        is_judged = val_labels[:, number] >= 0
        scores = search.decision_function(normalize(val.astype(np.float64)))[is_judged]
        plain = average_precision_score(val_labels[is_judged, number], scores)
        assert 0.3 < plain < 0.98
        assert plain - 1e-6 <= result.average_precision <= plain + 0.03
    assert {result.cost for result in judged} != {config.costs[0]}


def test_results_do_not_depend_on_threads_or_on_who_judges_which_class() -> None:
    train, train_labels = draw(1, 90)
    val, val_labels = draw(2, 90)
    config = Svm(costs=(0.1, 1.0))
    given_data = (train, train_labels, val, val_labels)
    together = judge_classes(*given_data, [0, 1, 2], config, 0, 3, go_on)
    apart = [judge_classes(*given_data, [number], config, 0, 1, go_on)[0] for number in range(3)]
    assert together == apart


def test_an_svm_that_is_stopped_says_so() -> None:
    train, labels = draw(1, 90)
    config = Svm(costs=(1000.0,), max_iterations=1)
    (result,) = judge_classes(train, labels, train, labels, [0], config, 0, 1, go_on)
    assert not result.has_converged


@pytest.mark.parametrize("num_begun", [0, 1, 2, 4])
def test_whoever_is_told_to_stop_begins_no_other_fit(
    num_begun: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, labels = draw(1, 90)
    fits: list[float] = []
    fit = LinearSVC.fit

    def count(svm: LinearSVC, *data: np.ndarray) -> LinearSVC:
        fits.append(svm.C)
        return fit(svm, *data)

    def check() -> None:
        if len(fits) >= num_begun:
            raise TerminatedError("stopped")

    monkeypatch.setattr(LinearSVC, "fit", count)
    config = Svm(costs=(0.1, 1.0), folds=2)
    with pytest.raises(TerminatedError):
        judge_classes(train, labels, train, labels, [0, 1, 2], config, 0, 1, check)
    # A cost's folds are fitted together.
    assert fits == [0.1, 0.1, 1.0, 1.0][: num_begun + num_begun % 2]


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        (np.array([[1, 0], [1, 0], [1, 1], [0, 1], [0, 1], [0, 0]]), None),
        (np.array([[1, 0], [1, 0], [0, -1], [0, 1], [0, 1], [0, 1]]), "class 0 is shown in 2 of 6"),
        (np.array([0, 1, 0, 1, 0, 1]), None),
        (np.array([0, 1, 0, 1, 0, 0]), "class 0 is shown in 4 of 6"),
    ],
)
def test_a_class_shown_too_rarely_is_named(labels: np.ndarray, fault: str | None) -> None:
    if fault is None:
        check_positives(labels, folds=3)
        return
    with pytest.raises(InvalidDataError, match=fault):
        check_positives(labels, folds=3)
