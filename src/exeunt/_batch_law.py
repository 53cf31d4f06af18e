"""Law of the mean cost over a batch of T further inputs.

The counts per exit are Dirichlet-multinomial: the law is discrete. How it is found, and what holds:

1. Enumeration, where the outcomes are few enough to list (two exits: up to T = 300,000; three: up to about
   2,000; ten: up to about 20): exact, atoms included.
2. Double contour integral for costs on a common lattice of up to a million steps between the cheapest and
   the dearest exit: to 1e-9, atoms included.
3. The same for other costs, where the root mean square of what unresolved atoms add is estimated at 1e-5 or
   less (typically 1e-7). The law is then treated as continuous, and four times the estimate is taken off the
   probabilities; this is an estimate, for costs without special relations, not a bound.
4. Batches of at least 10 times the calibration set, where 2 and 3 would take too long: from the law for an
   endless stream, corrected to second order. The remainder was mostly below 0.04, and never above
   0.41, times ((N + 1) / T)^2 in the cases that were also listed; 0.5 times that is taken off.
   Atoms of costs off a lattice are ignored. Where N is not tiny, 2 and 3 are quick enough.
5. Otherwise costs are rounded up, to a lattice that can be handled by 2: probabilities are then never
   overstated, quantiles never understated, by an amount that depends on the size of the problem.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri

from exeunt._batch_contour import Tilted
from exeunt._batch_exact import Enumeration, enumerable
from exeunt._inversion import ULPS, log_tails

if TYPE_CHECKING:
    from collections.abc import Callable

    from exeunt._arrays import Floats

_MOST_STEPS = 1_000_000
_TOLERANCE = 1e-5  # root mean square error of probabilities, for atoms that are not resolved
_MARGIN = 4  # times that error is taken off
_LARGE_BATCH = 10  # times N + 1
_NOISE = 1e-12  # of a computed probability that is compared with q


def batch_probability(budget: float, n_inputs: int, alpha: Floats, cost: Floats) -> float:
    """Return P(mean cost of `n_inputs` inputs <= budget); a budget equal to an attainable mean is within.

    `alpha` (k,) Dirichlet parameters, all at least 1; `cost` (k,) strictly increasing.
    """
    lowest, highest = float(cost[0]), float(cost[-1])
    budget += ULPS * budget
    if budget < lowest or budget >= highest:
        return float(budget >= highest)
    scale = _Scale(n_inputs, lowest, highest - lowest)
    if enumerable(n_inputs, alpha):
        return Enumeration(n_inputs, alpha, (cost - lowest) / scale.span).probability(scale.total(budget))
    law = _law(scale, alpha, cost, budget)
    return law.probability(law.midpoint(scale.total(budget)))


def batch_quantile(q: float, n_inputs: int, alpha: Floats, cost: Floats) -> float:
    """Return the smallest attainable mean cost x with P(mean <= x) >= q (see above for what is exact)."""
    lowest, highest = float(cost[0]), float(cost[-1])
    if q == 0 or len(cost) == 1:
        return lowest
    scale = _Scale(n_inputs, lowest, highest - lowest)
    unit = (cost - lowest) / scale.span
    centre, sigma = _moments(n_inputs, alpha, unit)
    guess = min(max(centre + float(ndtri(q)) * sigma, 0.0), float(n_inputs))
    if enumerable(n_inputs, alpha):
        listed = Enumeration(n_inputs, alpha, unit)
        low, high = _bracket(listed.probability, q, guess, 1e-2 * sigma, n_inputs)
        slack = 1e-12 * n_inputs
        return scale.mean(listed.smallest_within(low - slack, high + slack, q))
    law = _law(scale, alpha, cost, scale.mean(guess))
    return min(scale.mean(law.quantile(q, guess, sigma)), highest)


@dataclass(frozen=True)
class _Scale:
    """Between mean costs in the caller's unit and totals of costs that run from 0 to 1."""

    n_inputs: int
    lowest: float
    span: float

    def total(self, mean: float) -> float:
        return (mean - self.lowest) / self.span * self.n_inputs

    def mean(self, total: float) -> float:
        return self.lowest + total / self.n_inputs * self.span


@dataclass(frozen=True)
class _Totals:
    """P(total <= x) of a batch whose totals are multiples of `spacing` (0: negligible atoms)."""

    probability: Callable[[float], float]
    spacing: float
    n_inputs: int

    def midpoint(self, total: float) -> float:
        """Half-way from the last lattice point that is within `total` to the next."""
        if not self.spacing:
            return total
        return (math.floor(total / self.spacing + 1e-9) + 0.5) * self.spacing

    def quantile(self, q: float, guess: float, sigma: float) -> float:
        """Return the smallest total with probability at least q."""
        if not self.spacing:
            low, high = _bracket(self.probability, q, guess, 1e-2 * sigma, self.n_inputs)
            if not self.probability(low) < q <= self.probability(high):
                return high
            return float(brentq(lambda x: self.probability(x) - q, low, high, xtol=1e-300, rtol=1e-13))

        def at_step(step: float) -> float:
            return self.probability((math.floor(step) + 0.5) * self.spacing)

        most = round(self.n_inputs / self.spacing)
        low, high = _bracket(at_step, q, guess / self.spacing, 1e-2 * sigma / self.spacing, most)
        first, last = math.floor(low), math.ceil(high)
        while last - first > 1:
            middle = (first + last) // 2
            if at_step(middle) >= q - _NOISE:
                last = middle
            else:
                first = middle
        return (first if at_step(first) >= q - _NOISE else last) * self.spacing


def _law(scale: _Scale, alpha: Floats, cost: Floats, budget: float) -> _Totals:
    """Choose between methods 2 to 5, with the contour laid for totals near that of `budget`.

    The choice, and the lattice of method 5, do not depend on the budget: all probabilities and quantiles of a
    batch are of one law.
    """
    n, unit = scale.n_inputs, (cost - scale.lowest) / scale.span
    steps = _lattice_steps(unit, 4 * float(np.finfo(np.float64).eps * cost[-1]) / scale.span)
    if steps:
        unit = np.round(unit * steps) / steps
    middle = n * float(alpha @ unit / alpha.sum())
    at_middle = Tilted.at(n, alpha, unit, 1 / steps if steps else 0.0, middle)
    if at_middle.error > _TOLERANCE:
        if n >= _LARGE_BATCH * alpha.sum():
            return _large_batch(n, alpha, unit, at_middle.spacing)
        at_middle = _rounded_up(at_middle, middle)
    unit, spacing = at_middle.cost, at_middle.spacing
    tilted = Tilted.at(n, alpha, unit, spacing, scale.total(budget))
    margin = _MARGIN * at_middle.error

    def probability(total: float) -> float:
        return tilted.probability(total) if total >= n else max(tilted.probability(total) - margin, 0.0)

    return _Totals(probability, spacing, n)


def _rounded_up(tilted: Tilted, total: float) -> Tilted:
    """Round costs up to the finest lattice whose whole period can be searched and integrated."""
    nodes, _ = tilted.nodes()
    steps = max(int(nodes[-1] / math.pi / 2), 1)
    while True:
        unit = np.ceil(tilted.cost * steps * (1 - ULPS)) / steps
        coarse = Tilted.at(tilted.n_inputs, tilted.alpha, unit, 1 / steps, total)
        if coarse.error <= _TOLERANCE or steps <= len(unit):
            return coarse
        steps //= 2


def _large_batch(n: int, alpha: Floats, unit: Floats, spacing: float) -> _Totals:
    """Counts plus alpha / 2 are spread like (T + A / 2) times the Dirichlet shares, up to (A / T)^2.

    For alpha = 1 this is the mid-point rule: the counts are uniform on the lattice points of a simplex.
    """
    whole = float(alpha.sum())
    offset, size = float(alpha @ unit) / 2, n + whole / 2
    margin = 0.5 * (whole / n) ** 2

    def probability(total: float) -> float:
        if total >= n:
            return 1.0
        return max(math.exp(log_tails((total + offset) / size, alpha, unit)[0]) - margin, 0.0)

    return _Totals(probability, spacing, n)


def _lattice_steps(unit: Floats, slack: float) -> int:
    """Return the least L <= a million for which all `unit` * L are whole up to rounding, or 0."""
    steps = 1
    for value in unit:
        steps *= Fraction(float(value) * steps).limit_denominator(_MOST_STEPS // steps).denominator
        if abs(value - round(value * steps) / steps) > slack:
            return 0
    return steps


def _moments(n: int, alpha: Floats, unit: Floats) -> tuple[float, float]:
    """Mean and standard deviation of the batch's total."""
    whole = float(alpha.sum())
    centre = float(alpha @ unit) / whole
    variance = float(alpha @ (unit - centre) ** 2) / whole * n * (n + whole) / (whole + 1)
    return n * centre, math.sqrt(variance)


def _bracket(
    probability: Callable[[float], float], q: float, guess: float, step: float, most: float
) -> tuple[float, float]:
    """Return low < high around `guess` with P(low) < q <= P(high), or one of them at the end of the range."""
    low = high = guess
    if probability(guess) >= q - _NOISE:
        while low > 0 and probability(low) >= q - _NOISE:
            low, high, step = max(low - step, 0.0), low, 2 * step
        return low, high
    while high < most and probability(high) < q - _NOISE:
        low, high, step = high, min(high + step, most), 2 * step
    return low, high
