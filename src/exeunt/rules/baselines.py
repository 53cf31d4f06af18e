"""Rules of the literature to compare with. They take the same arguments as all policies, see `exeunt.compose`."""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.optimize import Bounds, differential_evolution

from exeunt._support.arrays import Floats
from exeunt.errors import InputError
from exeunt.policy.allocation import exponential_weights, gaussian, geometric
from exeunt.policy.allocation_search import RatePath, common_threshold_path, shares
from exeunt.policy.compose import Composition, FitPart, composed
from exeunt.policy.learned_quality import best_depth_gate
from exeunt.score.kinds import ConfidentPatience, ConstantScore, Patience
from exeunt.trace import ExitTrace
from exeunt.trace.derived import cached_on_trace, score_matrix

_PRICES = np.geomspace(0.008, 4.0, 10)
"""Quality that a gate pays for the full network's cost, from deep to shallow."""
_OVERSPENT = 5.0
"""Penalty on accuracy per full network's cost beyond the budget: more than it can ever gain."""


@composed
def msdnet(part: FitPart) -> Composition:
    """MSDNet's rates: the share that leaves grows or shrinks by one factor from exit to exit.

    Needs no labels.
    """
    return Composition(partial(geometric, part.trace.cost))


@composed
def predictive_exit(part: FitPart, *, sigma: float = 2.0) -> Composition:
    """Predictive Exit's rates: a bell curve (Gaussian) around one exit.

    `sigma`: its width in exits. Needs no labels.
    """
    return Composition(partial(gaussian, part.trace.cost, sigma=sigma))


@partial(composed, own_score=True)
def random_routing(part: FitPart) -> Composition:
    """EERO's rates, with inputs drawn at random: what confidence adds shows against it."""
    rates = partial(exponential_weights, part.trace.risk, part.trace.cost, spend="exactly")
    return Composition(rates, ConstantScore())


@partial(composed, own_score=True)
def patience(part: FitPart) -> Composition:
    """PABEE: answers once several exits in a row agree.

    Zhou et al. 2020. Needs no labels. Inputs are split at random between two neighbouring numbers, so that the budget
    is met.
    """
    path = common_threshold_path(score_matrix(Patience(), part.trace), part.trace.cost.cumulative)
    return Composition(path, Patience())


@composed
def confident_patience(part: FitPart, *, patience: int = 2) -> Composition:
    """PCEE: answers once two exits in a row are confident.

    The threshold on the confidence is tuned to the budget. `patience`: how many exits in a row, by default two.
    `score`: the confidence; needs no labels. Raises InputError for a patience below 1.
    """
    if patience < 1:
        raise InputError(f"patience must be at least 1 exit, got {patience}")
    fit, score = part.scored
    rule = ConfidentPatience(score, patience)
    return Composition(common_threshold_path(score_matrix(rule, fit), fit.cost.cumulative), rule)


@partial(composed, own_score=True)
def eco_m2f(part: FitPart) -> Composition:
    """ECO-M2F's gate: after the first exit it predicts how deep an input should go.

    Yao et al. 2024. The gate is a logistic regression on what the first exit tells: its confidences, and the features
    of the input if there are any. It learns the exit of the best quality less cost, at the price that meets the budget.
    """
    gates = [best_depth_gate(part.trace, float(price)) for price in _PRICES]
    spent = [float(shares @ part.trace.cost.cumulative) for _, shares in gates]
    nearest = int(np.argmin(np.abs(np.array(spent) - part.budget)))
    path = RatePath.through(np.stack([shares for _, shares in gates]), part.trace.cost.cumulative)
    return Composition(path, gates[nearest][0])


@composed
def genetic(part: FitPart) -> Composition:
    """Thresholds found by differential evolution, a genetic search, on the fit part."""
    return Composition(_evolved(*part.scored, part.budget, part.seed))


@cached_on_trace
def _evolved(fit: ExitTrace, score: str, budget: float, seed: int) -> RatePath:
    scores, cost, m = score_matrix(score, fit), fit.cost.cumulative, fit.n_exits
    if m == 1:
        return RatePath.through(np.ones((1, 1)), cost)
    quality, rows = fit.quality, np.arange(fit.n)
    # Scores as ranks, so that the search space is a cube at every exit.
    rank = np.ascontiguousarray(scores[:, :-1].argsort(axis=0).argsort(axis=0) + 1.0) / fit.n
    leaves = np.ones((fit.n, m), dtype=bool)  # one array for all trials; the last column stays
    common = np.cumsum(common_threshold_path(scores, cost)(budget))[:-1]

    def loss(thresholds: Floats) -> float:
        np.greater_equal(rank, thresholds, out=leaves[:, :-1])
        exits = leaves.argmax(axis=1)
        over = max(float(cost[exits].mean()) - budget, 0.0) / cost[-1]
        return float(_OVERSPENT * over - quality[rows, exits].mean())

    evolution = differential_evolution(
        loss,
        Bounds(np.zeros(m - 1), np.full(m - 1, 1 + 1e-9)),
        x0=np.clip(1 - common, 0, 1),
        popsize=4,
        maxiter=30,
        polish=False,
        seed=seed,
        tol=0.0,
    )
    np.greater_equal(rank, evolution.x, out=leaves[:, :-1])
    return RatePath.through(shares(leaves)[None], cost)
