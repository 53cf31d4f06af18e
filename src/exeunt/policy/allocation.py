"""Allocations: the share of the inputs that each exit should answer under a budget, in closed form.

Every rule here is one exponential family, tilted until its mean cost is the budget:

    rate_l  proportional to  base_l * exp(tilt * direction_l),    direction increasing with l

The mean cost rises strictly with the tilt (both cost and direction rise with l, so their covariance is positive). So
the tilt is unique, and bisection always finds it. `exeunt.policy.allocation_search` searches rates on labelled inputs
instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from exeunt._support import arrays
from exeunt._support.arrays import Floats, Integers
from exeunt.costs.cost_model import CostModel
from exeunt.errors import InputError

Spend: TypeAlias = Literal["at_most", "exactly"]

_FEW_STEPS = 4 * float(np.finfo(float).eps)
"""How near a root is found, relative to the larger of it and 1: no closer one can be asked of SciPy."""


def exponential_weights(
    risk: ArrayLike,
    cost: ArrayLike | CostModel,
    budget: float | str,
    *,
    temperature: float = 0.04,
    prior: ArrayLike | None = None,
    spend: Spend = "at_most",
) -> Floats:
    """Return the paper's rates (m,): the minimiser of risk + temperature * KL(rates, prior) within budget.

    `risk` (m,): error rate of each exit, in [0, 1]. `cost` (m,): cumulative costs. `prior` (m,): positive
    weights, by default proportional to 1/cost. `spend`: "at_most" is the paper's rule (multiplier at least
    0); "exactly" lets the multiplier be negative, so that the mean cost is the budget.

    EERO Prop. 3.8. Raises InputError for a temperature that is not positive, or shapes that disagree;
    InfeasibleBudget for a budget below the first exit.

    >>> exponential_weights([0.4, 0.2, 0.1], [1.0, 2.0, 3.0], 2.0).round(3)
    array([0.199, 0.602, 0.199])
    """
    model = _as_model(cost)
    risks = arrays.floats(risk, "risk", ndim=1)
    arrays.check_length(risks, "risk", model.n_exits)
    if not np.isfinite(risks).all():
        raise InputError(f"risks must be finite, got {risks}")
    arrays.check_positive(temperature, "temperature")
    if spend not in ("at_most", "exactly"):
        raise InputError(f"spend must be 'at_most' or 'exactly', got {spend!r}")
    log_base = _log_prior(prior, model) - risks / temperature
    target = model.budget(budget)
    if spend == "at_most" and _softmax(log_base) @ model.cumulative <= target:
        return _softmax(log_base)
    return _tilted(log_base, model.cumulative / model.full, model.cumulative, target)


def geometric(cost: ArrayLike | CostModel, budget: float | str) -> Floats:
    """Return MSDNet's rates (m,): proportional to q^l, with q such that the mean cost is the budget."""
    model = _as_model(cost)
    return _tilted(np.zeros(model.n_exits), np.arange(model.n_exits), model.cumulative, model.budget(budget))


def gaussian(cost: ArrayLike | CostModel, budget: float | str, *, sigma: float = 2.0) -> Floats:
    """Return Predictive Exit's rates (m,): a bell of width `sigma` exits, centred to cost the budget.

    exp(-(l - c)^2 / 2 sigma^2) is exp(-l^2 / 2 sigma^2) tilted by l, so moving the centre c is tilting.
    """
    model = _as_model(cost)
    arrays.check_positive(sigma, "sigma")
    exits = np.arange(model.n_exits)
    return _tilted(-(exits**2) / (2 * sigma**2), exits, model.cumulative, model.budget(budget))


def two_exit(cost: ArrayLike | CostModel, budget: float | str) -> Floats:
    """Return the rates (2,) of a network with one auxiliary head, in closed form (EERO Prop. C.1)."""
    model = _as_model(cost)
    if model.n_exits != 2:
        raise InputError(f"two_exit is for exactly two exits, got {model.n_exits}: use exponential_weights")
    first = (model.budget(budget) - model.full) / (model.first - model.full)
    return np.array([first, 1.0 - first])


def _as_model(cost: ArrayLike | CostModel) -> CostModel:
    return cost if isinstance(cost, CostModel) else CostModel(cost)


def _log_prior(prior: ArrayLike | None, model: CostModel) -> Floats:
    if prior is None:
        return -np.log(model.cumulative)
    weights = arrays.floats(prior, "prior", ndim=1)
    arrays.check_length(weights, "prior", model.n_exits)
    if not (np.isfinite(weights).all() and (weights > 0).all()):
        raise InputError(f"the prior must be positive and finite at every exit, got {weights}")
    return np.log(weights)


def _softmax(log_weights: Floats) -> Floats:
    weights: Floats = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    return weights


def _tilted(log_base: Floats, direction: Floats | Integers, cost: Floats, budget: float) -> Floats:
    """Return softmax(log_base + tilt * direction) with the tilt for which the mean cost is `budget`."""
    if not cost[0] < budget < cost[-1]:
        at_one_exit = np.zeros(len(cost))
        at_one_exit[0 if budget <= cost[0] else -1] = 1.0
        return at_one_exit
    excess = cost - budget

    def rates(tilt: float) -> Floats:
        return _softmax(log_base + tilt * direction)

    terms = list(zip(log_base.tolist(), direction.tolist(), excess.tolist(), strict=True))

    def mean_excess(tilt: float) -> float:
        """Return `rates(tilt) @ excess`: for a few exits Python's floats are quicker than arrays."""
        logs = [base + tilt * step for base, step, _ in terms]
        highest = max(logs)
        weights = [math.exp(log - highest) for log in logs]
        total: float = sum(weight * term[2] for weight, term in zip(weights, terms, strict=True))
        return total / sum(weights)

    low, high = _bracket(mean_excess)
    # Where weights change by many orders of magnitude per float of the tilt (temperature 1e-6), no float is the root; a
    # mixture of the two around it still meets the budget. Where they change little both may meet it.
    cheap, costly = rates(low), rates(high)
    short, over = -float(cheap @ excess), float(costly @ excess)
    share = min(max(short / (short + over), 0.0), 1.0) if short + over > 0 else 0.0
    return (1 - share) * cheap + share * costly


def _bracket(f: Callable[[float], float]) -> tuple[float, float]:
    """Return floats a few steps apart around the root of an increasing function: f(low) <= 0 <= f(high)."""
    from scipy.optimize import brentq  # a quarter of a second, for what answering inputs does not need

    low, high = -1.0, 1.0
    while f(low) > 0:
        low *= 4
    while f(high) <= 0:
        high *= 4
    root = float(brentq(f, low, high, xtol=_FEW_STEPS, rtol=_FEW_STEPS))
    apart = 2 * _FEW_STEPS * max(abs(root), 1.0)
    return root - apart, root + apart
