"""Whether certified policies keep their guarantee: counts of overspends against what the distribution of the mean cost allows.

A certificate speaks of the mean cost in the long run; a test part adds its own sampling. Given the fit part, which of
the other inputs calibrate and which test is drawn at random. So, whatever the inputs are, the test part overspends
with the probability that the distribution of the mean cost gives to a batch of its size. Each split is drawn anew. Given the inputs,
the splits are therefore independent, though their parts overlap: the count of overspends is a sum of independent
events of known probability.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from exeunt._arrays import Floats
from exeunt.frontiers import overspends

if TYPE_CHECKING:
    from exeunt.comparison.result import ComparisonResult, TraceResult

__all__ = ["Guarantee", "at_least", "guarantees", "overspent", "overspent_share"]


class Guarantee(NamedTuple):
    """How often one policy overspent one budget of one trace, and how likely that is if its guarantee holds.

    `least_p_value`: what it would be if every split had overspent; above some level these splits cannot tell.
    """

    trace: str
    policy: str
    budget: float
    overspent: int
    of: int
    p_value: float
    least_p_value: float


def guarantees(comparison: ComparisonResult, delta: float) -> list[Guarantee]:
    """Return every certified cell, the most suspicious first.

    The p-values are one-sided, and multiplied by the number of cells (Bonferroni).
    """
    found = []
    for trace in comparison.traces:
        over, feasible, chance = overspent(trace), ~np.isnan(trace.accuracy), _chance(trace, delta)
        for p, policy in enumerate(comparison.policies):
            for q, budget in enumerate(trace.shares):
                there = feasible[p, q]
                if there.any():
                    k, chances = int(over[p, q].sum()), chance[p, q, there]
                    p_values = at_least(k, chances), at_least(len(chances), chances)
                    found.append(Guarantee(trace.name, policy, float(budget), k, len(chances), *p_values))
    found.sort(key=lambda guarantee: guarantee.p_value)
    return [
        one._replace(
            p_value=min(one.p_value * len(found), 1.0), least_p_value=min(one.least_p_value * len(found), 1.0)
        )
        for one in found
    ]


def at_least(count: int, chances: Floats) -> float:
    """Return P(at least `count` of independent events happen), of chances (s,): the Poisson binomial distribution."""
    distribution = np.ones(1)
    for chance in chances:
        distribution = np.convolve(distribution, [1 - chance, chance])
    return float(distribution[count:].sum())


def overspent_share(trace: TraceResult, delta: float) -> float:
    """Return the largest share of test parts that may overspend at one budget though its guarantee is kept."""
    chance = _chance(trace, delta)
    known = ~np.isnan(trace.accuracy)
    means = [chance[p, q, known[p, q]].mean() for p, q in np.argwhere(known.any(axis=-1))]
    return float(max(means, default=0.0))


def overspent(trace: TraceResult) -> Floats:
    """Return where a test part cost more than the budget, (p, q, s)."""
    spend = np.nan_to_num(trace.spend, nan=-np.inf)  # what is infeasible is not overspent
    return np.stack([overspends(spend[:, q], amount) for q, amount in enumerate(trace.amounts)], axis=1)


def _chance(trace: TraceResult, delta: float) -> Floats:
    """Return the probability that a test part overspends, (p, q, s), by the distribution of the mean cost of its policy.

    Comparisons of before 0.1 did not keep it: then by normal approximation for a guarantee that is just kept. Test and
    calibration part vary by the same variance per input, so the mean of the one strays around that of the other.
    """
    _, calibrate, test = trace.parts
    usual = float(ndtr(ndtri(delta) / (1 + calibrate / test) ** 0.5))
    return np.where(np.isnan(trace.chance), usual, trace.chance)
