"""Distribution of the mean cost over a batch of T further inputs, T = `n_inputs`.

The counts per exit are Dirichlet-multinomial: independent negative binomials N_l ~ NB(alpha_l), given that
sum N_l = T. Where the outcomes are few enough they are listed, and the distribution is exact.

Elsewhere a total is taken to be spread about its mean like the cost of L shares of a Dirichlet distribution. Its
parameters are in the proportions of alpha; their sum and L are those for which any total has its exact
variance and third moment. As T grows this becomes the distribution of the long run. Counts are whole and the distribution is
not: so half an input, half the difference between the first and the last exit's cost, is added to every
total. With it no probability was overstated by more than 2e-4 in the cases that could be compared (2 to 30
exits, N to 2e5, T to 3e6), and quantiles lay 0 to 1.2 inputs above the true ones, mostly half an input. Without
it probabilities would be overstated by up to half the largest atom.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from exeunt._arrays import Floats
from exeunt.mean_cost.dirichlet_tails import ULPS, log_tails, solve_quantile

_MOST_LISTED = 1e6  # outcomes: about a quarter of a second and 50 MB
_NEGLIGIBLE = 1e-18  # probability of an outcome that is left out
_NOISE = 1e-12  # of a computed probability that is compared with q
_MARGIN = 0.5  # inputs, for counts being whole


def batch_probability(budget: float, n_inputs: int, alpha: Floats, cost: Floats) -> float:
    """Return P(mean cost of `n_inputs` inputs <= budget); a budget equal to an attainable mean is within.

    `alpha` (k,) Dirichlet parameters, all at least 1; `cost` (k,) strictly increasing.
    """
    budget += ULPS * budget
    if budget < cost[0] or budget >= cost[-1]:
        return float(budget >= cost[-1])
    unit = (cost - cost[0]) / (cost[-1] - cost[0])
    total = float((budget - cost[0]) / (cost[-1] - cost[0])) * n_inputs
    listed = list_totals(n_inputs, alpha, unit)
    if listed is None:
        return matched_probability(total, n_inputs, alpha, unit)
    totals, reached = listed
    return float(np.append(0.0, reached)[np.searchsorted(totals, total, side="right")])


def batch_quantile(q: float, n_inputs: int, alpha: Floats, cost: Floats) -> float:
    """Return the smallest mean cost x with P(mean cost of `n_inputs` inputs <= x) >= q."""
    if q in (0, 1) or len(cost) == 1:
        return float(cost[-1] if q == 1 else cost[0])
    unit = (cost - cost[0]) / (cost[-1] - cost[0])
    listed = list_totals(n_inputs, alpha, unit)
    if listed is None:
        total = matched_quantile(q, n_inputs, alpha, unit)
    else:
        totals, reached = listed
        total = float(totals[np.searchsorted(reached, q - _NOISE)])
    return float(cost[0] + total / n_inputs * (cost[-1] - cost[0]))


def list_totals(n_inputs: int, alpha: Floats, unit: Floats) -> tuple[Floats, Floats] | None:
    """Return the totals of a batch in ascending order, and P(<= total) of each; None if they are too many.

    `unit` (k,): costs from 0 to 1. The exit whose count varies most gets what the others leave.
    """
    from scipy.stats import nbinom  # half a second, for what answering inputs does not need

    p = float(alpha.sum() / (alpha.sum() + n_inputs))
    first = nbinom.ppf(_NEGLIGIBLE, alpha, p)
    last = np.minimum(nbinom.isf(_NEGLIGIBLE, alpha, p), n_inputs)
    *others, rest = np.argsort(alpha)
    size, total, weight = np.zeros(1), np.zeros(1), np.ones(1)
    for exit_ in others:
        if len(size) * (last[exit_] - first[exit_] + 1) > _MOST_LISTED:
            return None
        count = np.arange(first[exit_], last[exit_] + 1)
        size = np.add.outer(size, count).ravel()
        weight = np.multiply.outer(weight, nbinom.pmf(count, alpha[exit_], p)).ravel()
        kept = np.flatnonzero((size <= n_inputs) & (weight > _NEGLIGIBLE))
        total = np.add.outer(total, count * unit[exit_]).ravel()[kept]
        size, weight = size[kept], weight[kept]
    weight *= nbinom.pmf(n_inputs - size, alpha[rest], p)
    total += (n_inputs - size) * unit[rest]
    order = np.argsort(total)
    reached = np.cumsum(weight[order])
    return total[order], reached / reached[-1]


def matched_probability(total: float, n_inputs: int, alpha: Floats, unit: Floats) -> float:
    """Return about P(total <= `total`), `unit` (k,): costs from 0 to 1; rather too little than too much."""
    concentration, scale = _matched(n_inputs, float(alpha.sum()))
    mean = float(alpha @ unit / alpha.sum())
    at = mean + (total - _MARGIN - n_inputs * mean) / scale
    return math.exp(log_tails(at, alpha / alpha.sum() * concentration, unit)[0])


def matched_quantile(q: float, n_inputs: int, alpha: Floats, unit: Floats) -> float:
    """Return the least total at which `matched_probability` is q, or T where it is less below T."""
    concentration, scale = _matched(n_inputs, float(alpha.sum()))
    mean = float(alpha @ unit / alpha.sum())
    tails = partial(log_tails, alpha=alpha / alpha.sum() * concentration, cost=unit)
    at = solve_quantile(tails, q, (0.0, 1.0), mean)
    return min(max(n_inputs * mean + (at - mean) * scale + _MARGIN, 0.0), n_inputs)


def _matched(n_inputs: int, whole: float) -> tuple[float, float]:
    """Return concentration A' and scale L, such that L * Dirichlet has the counts' second and third moments.

    For A = `whole`, V = T (T + A) / (A + 1) times the variance of an exit's cost is the variance of a total,
    R V with R = (2 T + A) / (A + 2) times its third central moment the third of a total. For L shares of
    Dirichlet(A') they are L^2 / (A' + 1) and 2 L / (A' + 2).
    """
    variance = n_inputs * (n_inputs + whole) / (whole + 1)
    ratio = (2 * n_inputs + whole) / (whole + 2)
    g = 2 * variance / ratio**2
    concentration = g - 2 + math.sqrt(g * (g - 2))
    return concentration, ratio * (concentration + 2) / 2
