"""Do certified policies keep their guarantee? Their overspends are counted, and compared with what is expected.

A certificate is about the mean cost in the long run; the mean cost of a test part varies around it. Given the fit part,
the other inputs are divided at random into those that calibrate and those that test. So, for any inputs, a test part
overspends with the probability that the distribution of the mean cost gives to a batch of its size. Each split is
drawn anew. Given the inputs, the splits are therefore independent, though their parts overlap: the number of overspends
is a sum of independent events of known probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from exeunt._arrays import Booleans, Floats
from exeunt.comparison.results import TraceResult
from exeunt.frontiers import overspends


class Guarantee(NamedTuple):
    """How often one policy overspent one budget of one trace, and how likely that is if its guarantee holds.

    `least_p_value`: what the p-value would be if every split had overspent. If even this is large, the splits are too
    few to show a broken guarantee.
    """

    trace: str
    policy: str
    budget: float
    overspent: int
    of: int
    p_value: float
    least_p_value: float


def guarantees(traces: Sequence[TraceResult], delta: float) -> list[Guarantee]:
    """Return the guarantee of every policy at every budget of every trace, the most suspicious first.

    The p-values are one-sided, and multiplied by the number of guarantees (Bonferroni).
    """
    found = []
    for trace in traces:
        over, feasible, chance = overspent(trace), ~np.isnan(trace.accuracy), _chance(trace, delta)
        for p, q in np.argwhere(feasible.any(axis=-1)):
            k, chances = int(over[p, q].sum()), chance[p, q, feasible[p, q]]
            p_values = at_least(k, chances), at_least(len(chances), chances)
            budget = float(trace.shares[q])
            found.append(Guarantee(trace.name, trace.policies[p], budget, k, len(chances), *p_values))
    found.sort(key=lambda guarantee: guarantee.p_value)
    return [
        one._replace(
            p_value=min(one.p_value * len(found), 1.0), least_p_value=min(one.least_p_value * len(found), 1.0)
        )
        for one in found
    ]


def at_least(count: int, chances: Floats) -> float:
    """Return P(at least `count` of independent events happen), by the Poisson binomial distribution.

    `chances` (s,): the probability of each event.
    """
    distribution = np.ones(1)
    for chance in chances:
        distribution = np.convolve(distribution, [1 - chance, chance])
    return float(distribution[count:].sum())


def overspent_share(trace: TraceResult, delta: float) -> float:
    """Return the largest share of test parts that may overspend at one budget though its guarantee is kept."""
    chance, feasible = _chance(trace, delta), ~np.isnan(trace.accuracy)
    means = [chance[p, q, feasible[p, q]].mean() for p, q in np.argwhere(feasible.any(axis=-1))]
    return float(max(means, default=0.0))


def overspent(trace: TraceResult) -> Booleans:
    """Return where a test part cost more than the budget, (p, q, s); False where the budget was infeasible."""
    return overspends(trace.mean_cost, trace.amounts[:, None])


def _chance(trace: TraceResult, delta: float) -> Floats:
    """Return the probability that a test part overspends, (p, q, s), by the distribution of its policy's mean cost.

    Where the distribution is not known, return the probability for a guarantee that is just kept, by normal
    approximation: both calibration and test part vary by the same variance per input.
    """
    _, calibrate, test = trace.parts
    usual = float(ndtr(ndtri(delta) / (1 + calibrate / test) ** 0.5))
    return np.where(np.isnan(trace.chance), usual, trace.chance)
