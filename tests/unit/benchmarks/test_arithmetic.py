"""Medians, pairs, targets and the judge, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.judge import count_farther, judge
from benchmarks.statistics import (
    Spread,
    divide_by_round,
    find_time_to,
    is_reached,
    summarize,
    trace_frontier,
)

# Two centroids on a line, four rows: squared distances 1, 1, 9 and 4.
CENTROIDS = np.array([[0.0, 0.0], [10.0, 0.0]], np.float32)
ROWS = np.array([[1.0, 0.0], [0.0, 1.0], [7.0, 0.0], [10.0, 2.0]], np.float32)


def test_a_spread_is_median_and_range_of_an_even_number_too() -> None:
    assert summarize([4.0, 1.0, 3.0, 2.0]) == Spread(2.5, 1.0, 4.0, 4)
    assert summarize([7.0]) == Spread(7.0, 7.0, 7.0, 1)


def test_a_ratio_is_formed_within_a_round_before_it_is_summarized() -> None:
    # Round 1 ran at half the pace. The ratio of medians would say 15 / 6 = 2.5.
    theirs, ours = {0: 10.0, 1: 30.0, 2: 15.0}, {0: 5.0, 1: 10.0, 2: 6.0}
    assert divide_by_round(theirs, ours) == Spread(2.5, 2.0, 3.0, 3)
    assert divide_by_round({0: 10.0, 1: 30.0}, {0: 5.0, 1: 10.0}).median == 2.5
    assert divide_by_round({0: 10.0, 1: 30.0}, {1: 10.0, 2: 1.0}) == Spread(3.0, 3.0, 3.0, 1)


def test_time_to_a_target_is_the_fastest_attempt_that_reached_it() -> None:
    attempts = [(1.0, 105.0), (4.0, 99.0), (3.0, 100.0), (2.0, 100.01)]
    assert find_time_to(100.0, attempts) == 3.0
    assert find_time_to(90.0, attempts) is None


def test_reached_allows_for_rounding_and_for_no_more() -> None:
    assert is_reached(100.0009, 100.0)
    assert not is_reached(100.0011, 100.0)


def test_the_frontier_leaves_out_what_another_point_beats_in_both() -> None:
    points = [(3.0, 5.0), (1.0, 9.0), (2.0, 9.5), (4.0, 5.0), (5.0, 2.0)]
    assert trace_frontier(points) == [(1.0, 9.0), (3.0, 5.0), (5.0, 2.0)]


def test_the_judge_agrees_with_the_hand() -> None:
    verdict = judge([ROWS[:3], ROWS[3:]], CENTROIDS)
    np.testing.assert_array_equal(verdict.assignments, [0, 0, 1, 1])
    np.testing.assert_array_equal(verdict.distances_sq, [1, 1, 9, 4])
    assert verdict.objective == 15.0


def test_the_judge_sees_what_float32_cannot() -> None:
    # 1e4 + 1 and 1e4 + 1 + 2^-10 differ in float32, their squares do not.
    rows = np.array([[1e4 + 1.0]], np.float32)
    centroids = np.array([[1e4], [1e4 + 2.0 - 2.0**-9]], np.float32)
    assert judge([rows], centroids).assignments[0] == 1
    assert judge([rows], centroids).objective == pytest.approx((1 - 2.0**-9) ** 2, rel=1e-12)


def test_farther_rows_are_counted_and_equally_near_ones_are_not() -> None:
    rows = np.array([[5.0, 0.0], [1.0, 0.0], [9.0, 0.0]], np.float32)
    best = judge([rows], CENTROIDS)
    assert count_farther([rows[:1], rows[1:]], CENTROIDS, np.array([1, 0, 1]), best) == (0, 0.0)
    count, worst = count_farther([rows], CENTROIDS, np.array([0, 1, 1]), best)
    assert count == 1
    assert worst == pytest.approx((81 - 1) / 1)
