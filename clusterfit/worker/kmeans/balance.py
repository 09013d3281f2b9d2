"""Iterations that keep clusters within a limit: an auction of seats, then means, in turn.

The auction finds an assignment within the limit that is close to the best for these centroids; the
means are the best centroids for that assignment. Centroids and prices are all that passes from one
iteration to the next, so a fit that goes on from a checkpoint sees the same.

N: rows of all ranks, K: num_clusters, n: rows of this rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np
import torch

from clusterfit.config.sections.clustering import Cluster
from clusterfit.worker.kmeans.auction import hold_auction
from clusterfit.worker.kmeans.engine import Balance, Fit
from clusterfit.worker.kmeans.iterations import is_flat
from clusterfit.worker.kmeans.listers import RowLister
from clusterfit.worker.kmeans.lloyd import split_empty_clusters
from clusterfit.worker.kmeans.problem import Problem
from clusterfit.worker.kmeans.seats import allot_seats
from clusterfit.worker.kmeans.sums import ClusterSums

MAX_ITERATIONS: Final = 10

_STEPS: Final = (64, 8)
"""Of an auction's bids, in hundredths of a row's squared distance: the last assignment is finer."""


def balance(problem: Problem, fit: Fit, report: Callable[[Fit], None]) -> Fit:
    """Return the fit with prices, and centroids that are means of clusters within the limit."""
    config = problem.config
    state = fit.balance or Balance(np.zeros(config.num_clusters, np.float32))
    means = _Means(problem)
    while not is_balanced(fit, config):
        centroids = problem.enter(fit.centroids)
        prices = torch.from_numpy(state.prices).to(centroids.device)
        outcome = hold_auction(
            RowLister(problem, centroids),
            range(problem.rows.start, problem.rows.stop),
            problem.num_rows,
            allot_seats(problem.num_rows, config.max_size_ratio, prices),
            prices,
            problem.ranks,
            problem.pulse,
            _STEPS,
        )
        objective, moved = means.update(outcome.held, centroids, len(state.objectives))
        objectives = (*state.objectives, objective)
        # Where no cluster asks a price the limit changes nothing, and neither shall this.
        is_idle = not bool(outcome.prices.any())
        is_settled = is_idle or is_flat(objectives, config.stop_improvement)
        state = Balance(outcome.prices.cpu().numpy(), objectives, is_settled)
        after = fit.centroids if is_idle else problem.leave(moved)
        fit = replace(fit, centroids=after, previous=None, anchor=None, balance=state)
        report(fit)
    return fit


def is_balanced(fit: Fit, config: Cluster) -> bool:
    """Tell whether nothing is left to do of what limits sizes."""
    if not config.max_size_ratio:
        return True
    balance = fit.balance
    if balance is None:
        return False
    return balance.is_settled or len(balance.objectives) >= MAX_ITERATIONS


class _Means:
    """The sums of clusters as rows move between them."""

    def __init__(self, problem: Problem) -> None:
        """Begin with rows in no cluster."""
        self._problem = problem
        device = problem.arithmetic.device
        self._before = torch.full((problem.rows.num_rows,), -1, dtype=torch.int64, device=device)
        self._totals: ClusterSums | None = None

    def update(
        self, assignments: torch.Tensor, centroids: torch.Tensor, iteration: int
    ) -> tuple[float, torch.Tensor]:
        """Return the objective of (n,) assignments at these centroids, and the next centroids."""
        problem = self._problem
        if self._totals is None:
            self._totals = ClusterSums.empty(centroids, centroids.device)
        with problem.pulse.loop() as beat:
            for offset, chunk in problem.rows.chunks():
                beat(offset)
                mine = slice(offset, offset + len(chunk))
                self._totals.move(
                    chunk.rows,
                    problem.rows.norms_sq[mine],
                    self._before[mine],
                    assignments[mine],
                    problem.arithmetic,
                )
        self._before = assignments
        totals = self._totals.reduce(problem.ranks)
        means = totals.compute_means(centroids)
        if bool((totals.counts == 0).any()):
            generator = np.random.default_rng([problem.seed, 5, iteration])
            split_empty_clusters(means, totals, generator)
        return totals.compute_objective(centroids), problem.move(centroids, means)
