"""From initial centroids to settled ones: relaxed iterations over candidates, and when they end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from clusterfit.config.sections.clustering import Cluster
from clusterfit.worker.kmeans.candidates import is_renewed_at
from clusterfit.worker.kmeans.engine import Fit
from clusterfit.worker.kmeans.lloyd import Lloyd
from clusterfit.worker.kmeans.problem import Problem
from clusterfit.worker.kmeans.rounding import MAX_EXCESS


def iterate(problem: Problem, fit: Fit, report: Callable[[Fit], None]) -> Fit:
    """Return the fit after `num_iterations`, or where a stopping rule ends it.

    Where an iteration finds that rows must not be rounded, its result is dropped and the fit from
    before it returned, which says so.
    """
    config, num_candidates = problem.config, problem.num_candidates
    if is_done(fit, config):
        return fit
    lloyd = Lloyd(
        problem.rows,
        problem.arithmetic,
        problem.ranks,
        problem.pulse,
        problem.seed,
        num_candidates,
    )
    if fit.previous is not None and fit.anchor is not None:
        lloyd.recall(problem.enter(fit.previous), problem.enter(fit.anchor))
    while not is_done(fit, config):
        # From what a checkpoint holds, bit for bit, so that a resumed fit sees the same.
        centroids = problem.enter(fit.centroids)
        looks_at_all = not num_candidates or fit.is_resting or is_renewed_at(fit.num_iterations)
        step = lloyd.iterate(centroids, fit.num_iterations, looks_at_all)
        if problem.probe is not None:
            chosen = lloyd.assignments if looks_at_all else None
            excess = problem.probe.measure_pass(centroids, chosen, step.objective)
            if excess > MAX_EXCESS:
                return replace(fit, rounding_excess=excess)
        objectives = (*fit.objectives, step.objective)
        is_last = len(objectives) == config.num_iterations
        is_still = step.num_changed <= config.stop_churn * problem.num_rows
        rests = is_still or is_flat(objectives, config.stop_improvement)
        # An empty cluster stands where no row has it as a candidate yet.
        is_resting = rests or step.num_empty > 0
        begins_at_means = config.relaxation == 1 or fit.is_resting
        is_settled = rests and looks_at_all and begins_at_means
        relaxation = 1.0 if is_resting or is_last else config.relaxation
        fit = Fit(
            problem.leave(problem.move(centroids, step.centroids, relaxation)),
            objectives,
            previous=fit.centroids,
            anchor=fit.centroids if looks_at_all else fit.anchor,
            is_resting=is_resting,
            is_settled=is_settled,
            rounding_excess=fit.rounding_excess,
        )
        report(fit)
    return fit


def is_done(fit: Fit, config: Cluster) -> bool:
    """Tell whether nothing is left to do."""
    return fit.is_settled or fit.num_iterations >= config.num_iterations


def is_flat(objectives: tuple[float, ...], least: float) -> bool:
    """Tell whether the last iteration began less than this fraction below the one before."""
    if len(objectives) < 2 or not least:
        return False
    before, now = objectives[-2:]
    return before - now < least * before
