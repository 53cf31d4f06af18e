"""Law of the mean cost over a batch of T further inputs, T = `n_inputs`.

The counts per exit are Dirichlet-multinomial: independent negative binomials N_l ~ NB(alpha_l), given that
sum N_l = T. Where the outcomes are few enough they are listed, and the law is exact. Otherwise the counts
minus their means are taken to be spread like those of a Dirichlet law with parameters in the same
proportions, and a scale and a concentration that give every total cost its exact mean, variance and third
moment. As T grows this becomes the law of the long run.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri
from scipy.stats import nbinom

from exeunt.law.inversion import ULPS, log_tails, solve_quantile

if TYPE_CHECKING:
    from exeunt._arrays import Floats

_MOST_LISTED = 1e6  # outcomes: about a quarter of a second and 50 MB
_NEGLIGIBLE = 1e-18  # probability of an outcome that is left out
_MARGIN = 0.5  # inputs


def batch_probability(budget: float, n_inputs: int, alpha: Floats, cost: Floats) -> float:
    """Return P(mean cost of `n_inputs` inputs <= budget); a budget equal to an attainable mean is within.

    `alpha` (k,) Dirichlet parameters, all at least 1; `cost` (k,) strictly increasing.
    """
    budget += ULPS * budget
    if budget < cost[0] or budget >= cost[-1]:
        return float(budget >= cost[-1])
    share = (cost - cost[0]) / (cost[-1] - cost[0])
    total = float((budget - cost[0]) / (cost[-1] - cost[0])) * n_inputs
    listed = list_totals(n_inputs, alpha, share)
    if listed is None:
        return matched_probability(total, n_inputs, alpha, share)
    totals, reached = listed
    return float(np.append(0.0, reached)[np.searchsorted(totals, total, side="right")])


def batch_quantile(q: float, n_inputs: int, alpha: Floats, cost: Floats) -> float:
    """Return the smallest mean cost x with P(mean cost of `n_inputs` inputs <= x) >= q."""
    if q in (0, 1) or len(cost) == 1:
        return float(cost[-1] if q == 1 else cost[0])
    share = (cost - cost[0]) / (cost[-1] - cost[0])
    listed = list_totals(n_inputs, alpha, share)
    if listed is None:
        total = matched_quantile(q, n_inputs, alpha, share)
    else:
        totals, reached = listed
        total = float(totals[np.searchsorted(reached, q - 1e-12)])
    return float(cost[0] + total / n_inputs * (cost[-1] - cost[0]))


def list_totals(n_inputs: int, alpha: Floats, share: Floats) -> tuple[Floats, Floats] | None:
    """Return all totals of `share` over a batch in ascending order, and P(<= total) of each; None if too many.

    The exit whose count varies most gets what the others leave.
    """
    p = float(alpha.sum() / (alpha.sum() + n_inputs))
    first = np.maximum(nbinom.ppf(_NEGLIGIBLE, alpha, p), 0)
    last = np.minimum(nbinom.isf(_NEGLIGIBLE, alpha, p), n_inputs)
    *others, rest = np.argsort(last - first)
    size, total, weight = np.zeros(1), np.zeros(1), np.ones(1)
    for exit_ in others:
        if len(size) * (last[exit_] - first[exit_] + 1) > _MOST_LISTED:
            return None
        count = np.arange(first[exit_], last[exit_] + 1)
        size = np.add.outer(size, count).ravel()
        weight = np.multiply.outer(weight, nbinom.pmf(count, alpha[exit_], p)).ravel()
        kept = np.flatnonzero((size <= n_inputs) & (weight > _NEGLIGIBLE))
        total = np.add.outer(total, count * share[exit_]).ravel()[kept]
        size, weight = size[kept], weight[kept]
    weight *= nbinom.pmf(n_inputs - size, alpha[rest], p)
    total += (n_inputs - size) * share[rest]
    order = np.argsort(total)
    reached = np.cumsum(weight[order])
    return total[order], reached / reached[-1]


def matched_probability(total: float, n_inputs: int, alpha: Floats, share: Floats) -> float:
    """Return about P(total of `share` <= `total`), with half an input taken off for counts being whole."""
    concentration, scale = _matched(n_inputs, float(alpha.sum()))
    mean = float(alpha @ share / alpha.sum())
    at = mean + (total - _MARGIN - n_inputs * mean) / scale
    return math.exp(log_tails(at, alpha / alpha.sum() * concentration, share)[0])


def matched_quantile(q: float, n_inputs: int, alpha: Floats, share: Floats) -> float:
    """Return the total at which `matched_probability` is q, or T if it is less everywhere."""
    concentration, scale = _matched(n_inputs, float(alpha.sum()))
    mean = float(alpha @ share / alpha.sum())
    spread = math.sqrt(float(alpha @ (share - mean) ** 2 / alpha.sum()) / (concentration + 1))
    tails = partial(log_tails, alpha=alpha / alpha.sum() * concentration, cost=share)
    at = solve_quantile(tails, q, (0.0, 1.0), mean + float(ndtri(q)) * spread)
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
