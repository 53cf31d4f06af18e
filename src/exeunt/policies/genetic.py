"""Thresholds by differential evolution on the fit inputs, to compare other searches with."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import Bounds, differential_evolution

from exeunt._arrays import Floats
from exeunt.policies.answering import answering
from exeunt.policies.compose import compose
from exeunt.policies.main_confidence import MainConfidence
from exeunt.policies.rate_path import RatePath, shares, shift_path
from exeunt.policy import Policy
from exeunt.score.kinds import Score
from exeunt.trace import ExitTrace, check_disjoint
from exeunt.trace.cache import cached_on_trace
from exeunt.trace.scoring import score_matrix

__all__ = ["genetic"]

_OVERSPENT = 5.0
"""Penalty on accuracy per full network's cost beyond the budget: more than it can ever gain."""


@answering
def genetic(
    fit: ExitTrace,
    calibrate: ExitTrace,
    *,
    budget: float | str,
    score: str | Score | None = None,
    generations: int = 30,
    seed: int = 0,
    **options: Any,
) -> Policy:
    """Rates of the thresholds that differential evolution finds on the fit inputs within the budget.

    `generations` bounds the search. The other options are those of `compose`.
    """
    check_disjoint(fit, calibrate)
    amount = fit.cost.budget(budget)
    main = MainConfidence.of(fit, score)
    path = _searched(main.fit, main.name, amount, generations, seed)
    return compose("genetic", path, fit, calibrate, budget=budget, score=score, seed=seed, **options)


@cached_on_trace
def _searched(fit: ExitTrace, score: str, budget: float, generations: int, seed: int) -> RatePath:
    scores, cost, m = score_matrix(score, fit), fit.cost.cumulative, fit.n_exits
    if m == 1:
        return RatePath.through(np.ones((1, 1)), cost)
    correct, rows = fit.correct.astype(np.float64), np.arange(fit.n)
    # Scores as ranks, so that the search space is a cube at every exit.
    rank = np.ascontiguousarray(scores[:, :-1].argsort(axis=0).argsort(axis=0) + 1.0) / fit.n
    leaves = np.ones((fit.n, m), dtype=bool)  # one array for all trials; the last column stays
    common = np.cumsum(shift_path(scores, cost)(budget))[:-1]

    def loss(thresholds: Floats) -> float:
        np.greater_equal(rank, thresholds, out=leaves[:, :-1])
        exits = leaves.argmax(axis=1)
        over = max(float(cost[exits].mean()) - budget, 0.0) / cost[-1]
        return float(_OVERSPENT * over - correct[rows, exits].mean())

    found = differential_evolution(
        loss,
        Bounds(np.zeros(m - 1), np.full(m - 1, 1 + 1e-9)),
        x0=np.clip(1 - common, 0, 1),
        popsize=4,
        maxiter=generations,
        polish=False,
        seed=seed,
        tol=0.0,
    )
    np.greater_equal(rank, found.x, out=leaves[:, :-1])
    return RatePath.through(shares(leaves)[None], cost)
