"""The exact distribution of the mean cost of a calibrated policy on future inputs, in the long run and on a batch.

On a batch of T further inputs, T = `n_inputs`, the counts per exit are Dirichlet-multinomial: independent negative
binomials N_l ~ NB(alpha_l), given that sum N_l = T. Where the outcomes are few enough they are listed, and the
distribution is exact.

Elsewhere a total is taken to be spread about its mean like the cost of L shares of a Dirichlet distribution. Its
parameters are in the proportions of alpha; their sum and L are those for which any total has its exact variance and
third moment. As T grows this becomes the distribution of the long run. Counts are whole and the distribution is not: so
half an input, half the difference between the first and the last exit's cost, is added to every total. With it no
probability was overstated by more than 2e-4 in the cases that could be compared (2 to 30 exits, N to 2e5, T to 3e6),
and quantiles lay 0 to 1.2 inputs above the true ones, mostly half an input. Without it probabilities would be
overstated by up to half the largest atom.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from exeunt._support import arrays
from exeunt._support.arrays import Floats, Integers
from exeunt.costs.cost_model import CostModel, checked_costs
from exeunt.costs.dirichlet_tails import ULPS, log_tails, solve_quantile
from exeunt.errors import InputError

_MOST_LISTED = 1e6  # outcomes: about a quarter of a second and 50 MB
_NEGLIGIBLE = 1e-18  # probability of an outcome that is left out
_NOISE = 1e-12  # of a computed probability that is compared with q
_MARGIN = 0.5  # inputs, for counts being whole


@dataclass(frozen=True, eq=False)
class MeanCostDistribution:
    """Distribution of the mean cost per future input, K = sum p_l b_l, over the draw of the calibration inputs.

    `counts` (m,): calibration inputs released at each exit by sequential thresholds, fixed before looking at
    the scores; any N >= 0 in all. `cost`: a CostModel, or cumulative costs (m,).

    If calibration and future inputs are exchangeable and scores have no ties, the long-run shares p follow
    Dirichlet(n_1, ..., n_{m-1}, n_m + 1), exits with parameter 0 left out: the gaps between order
    statistics, one exit after the other. Nothing is assumed of the data or the network. Probabilities are
    found by numerical inversion, to 1e-9; in the tails, the smaller one keeps about nine digits.

    Raises InputError for counts that are not whole numbers >= 0, or not one per exit.

    >>> distribution = MeanCostDistribution([30, 50, 20], [1.0, 2.0, 4.0])
    >>> round(distribution.mean, 4), round(distribution.probability_within(2.3), 4)
    (2.1188, 0.9539)
    >>> round(distribution.quantile(0.95), 4)
    2.2956
    """

    counts: Integers
    cost: Floats
    _alpha: Floats = field(init=False, repr=False)
    _reached: Floats = field(init=False, repr=False)

    def __init__(self, counts: ArrayLike, cost: ArrayLike | CostModel) -> None:
        costs = checked_costs(cost)
        checked = _checked_counts(counts, len(costs))
        alpha = checked.astype(np.float64)
        alpha[-1] += 1
        object.__setattr__(self, "counts", arrays.frozen(checked.copy()))
        object.__setattr__(self, "cost", arrays.frozen(costs.copy()))
        object.__setattr__(self, "_alpha", arrays.frozen(alpha[alpha > 0]))
        object.__setattr__(self, "_reached", arrays.frozen(costs[alpha > 0]))

    @property
    def n_calibration(self) -> int:
        """Calibration inputs N behind the distribution."""
        return int(self.counts.sum())

    @property
    def mean_shares(self) -> Floats:
        """Expected share of future inputs that leave at each exit, (m,), summing to 1."""
        alpha = self.counts.astype(np.float64)
        alpha[-1] += 1
        shares: Floats = alpha / alpha.sum()
        return shares

    @property
    def mean(self) -> float:
        """Expected cost per input, (sum n_l b_l + b_m) / (N + 1)."""
        return float(self.cost[0] + self.mean_shares @ (self.cost - self.cost[0]))

    @property
    def std(self) -> float:
        """Standard deviation of the mean cost per input over an endless stream."""
        spread = float(self.mean_shares @ (self.cost - self.mean) ** 2)
        return math.sqrt(spread / (self.n_calibration + 2))

    def probability_within(self, budget: float) -> float:
        """Return P(K <= budget): the chance that the long-run mean cost per input is within `budget`."""
        return math.exp(log_tails(arrays.finite(budget, "budget"), self._alpha, self._reached)[0])

    def quantile(self, q: float) -> float:
        """Return the mean cost that is not exceeded with probability q, for q in [0, 1]."""
        q = arrays.check_between(q, "q", 0, 1, inclusive=True)
        lowest, highest = float(self._reached[0]), float(self._reached[-1])
        if q in (0, 1) or lowest == highest:
            return lowest if q == 0 else highest
        tails = partial(log_tails, alpha=self._alpha, cost=self._reached)
        return solve_quantile(tails, q, (lowest, highest), self.mean)

    def batch_probability_within(self, budget: float, n_inputs: int) -> float:
        """Return P(mean cost per input of the next `n_inputs` inputs <= budget).

        The counts per exit are Dirichlet-multinomial. Exact to 1e-9, attainable mean costs included (up to
        rounding), where at most a million outcomes have to be listed: two exits up to T = 10^6 inputs, three
        up to about 1,000, ten up to about 12. Other batches get a continuous distribution with the same first three
        moments, read half an input lower, (b_m - b_1) / (2 T). So a probability is understated, by up to what
        half an input makes, and overstated by less than 2e-4.
        """
        budget = arrays.finite(budget, "budget")
        return batch_probability(budget, _checked_size(n_inputs), self._alpha, self._reached)

    def batch_quantile(self, q: float, n_inputs: int) -> float:
        """Return the mean cost per input that the next `n_inputs` inputs keep within with probability q.

        The smallest x with `batch_probability_within(x, n_inputs) >= q`. Where that is not exact, x is about
        half an input, (b_m - b_1) / (2 T), above the true quantile: little against the spread of a batch,
        unless nearly all inputs cost the same.
        """
        q = arrays.check_between(q, "q", 0, 1, inclusive=True)
        return batch_quantile(q, _checked_size(n_inputs), self._alpha, self._reached)

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """Draw n long-run mean costs per input, (n,)."""
        shares = rng.dirichlet(self._alpha, size=n)
        means: Floats = self._reached[0] + shares @ (self._reached - self._reached[0])
        return means


def _checked_counts(counts: ArrayLike, m: int) -> Integers:
    values = arrays.floats(counts, "counts", ndim=1)
    arrays.check_length(values, "counts", m)
    if np.any(values < 0) or values.sum() > 1e15:
        bad = values[values < 0][0] if np.any(values < 0) else values.max()
        raise InputError(
            f"counts must be numbers of calibration inputs, 0 up to 1e15 in all, got {bad:g}: "
            "give how many leave at each exit, not rates"
        )
    return arrays.integers(counts, "counts", ndim=1)


def _checked_size(n_inputs: int) -> int:
    size = int(arrays.integers(n_inputs, "n_inputs", ndim=0))
    if size < 1:
        raise InputError(f"n_inputs must be at least 1, got {n_inputs}: say how many inputs the batch has")
    return size


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

    `unit` (k,): costs from 0 to 1. The exit whose count varies most gets the remaining inputs.
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
        likely = np.flatnonzero((size <= n_inputs) & (weight > _NEGLIGIBLE))
        total = np.add.outer(total, count * unit[exit_]).ravel()[likely]
        size, weight = size[likely], weight[likely]
    weight *= nbinom.pmf(n_inputs - size, alpha[rest], p)
    total += (n_inputs - size) * unit[rest]
    order = np.argsort(total)
    reached = np.cumsum(weight[order])
    return total[order], reached / reached[-1]


def matched_probability(total: float, n_inputs: int, alpha: Floats, unit: Floats) -> float:
    """Return about P(total <= `total`), `unit` (k,): costs from 0 to 1; rather too little than too much."""
    concentration, scale = _matched(n_inputs, float(alpha.sum()))
    mean = float(alpha @ unit / alpha.sum())
    level = mean + (total - _MARGIN - n_inputs * mean) / scale
    return math.exp(log_tails(level, alpha / alpha.sum() * concentration, unit)[0])


def matched_quantile(q: float, n_inputs: int, alpha: Floats, unit: Floats) -> float:
    """Return the least total at which `matched_probability` is q, or T where it is less below T."""
    concentration, scale = _matched(n_inputs, float(alpha.sum()))
    mean = float(alpha @ unit / alpha.sum())
    tails = partial(log_tails, alpha=alpha / alpha.sum() * concentration, cost=unit)
    level = solve_quantile(tails, q, (0.0, 1.0), mean)
    return min(max(n_inputs * mean + (level - mean) * scale + _MARGIN, 0.0), n_inputs)


def _matched(n_inputs: int, alpha_sum: float) -> tuple[float, float]:
    """Return concentration A' and scale L, such that L * Dirichlet has the counts' second and third moments.

    For A = `alpha_sum`, V = T (T + A) / (A + 1) times the variance of an exit's cost is the variance of a total,
    R V with R = (2 T + A) / (A + 2) times its third central moment the third of a total. For L shares of
    Dirichlet(A') they are L^2 / (A' + 1) and 2 L / (A' + 2).
    """
    variance = n_inputs * (n_inputs + alpha_sum) / (alpha_sum + 1)
    ratio = (2 * n_inputs + alpha_sum) / (alpha_sum + 2)
    g = 2 * variance / ratio**2
    concentration = g - 2 + math.sqrt(g * (g - 2))
    return concentration, ratio * (concentration + 2) / 2
