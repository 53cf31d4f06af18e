"""Means per request over drawn units, with intervals: ratios of sums, each unit weighed by its probability."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from scipy.special import ndtri, stdtrit

FEWEST = 10
"""Units for an interval."""
LOSSES = (-1.0, 1.0)
"""The least and the largest loss of a request."""
_ALPHA = 0.05
_USUAL = 200 / 8.2
"""Intervals over all looks are the narrowest for 8.2 times as many units."""


class Interval(NamedTuple):
    """An estimate and its 95% interval."""

    mean: float
    low: float
    high: float


@dataclass
class RatioSums:
    """Sums over units of x and y, weighed by w = 1 / probability, of which the ratio is sum(w x) / sum(w y).

    They say all that a ratio and its error need, so units can be added one by one and need not be kept.
    """

    n: int = 0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0
    y2: float = 0.0
    y3: float = 0.0
    y4: float = 0.0
    y5: float = 0.0

    def add(self, x: float, y: float, probability: float) -> None:
        """Add a unit that was drawn with this probability."""
        weighted_x, weighted_y = x / probability, y / probability
        self.n += 1
        self.x += weighted_x
        self.y += weighted_y
        self.xx += weighted_x**2
        self.xy += weighted_x * weighted_y
        self.y2 += weighted_y**2
        self.y3 += weighted_y**3
        self.y4 += weighted_y**4
        self.y5 += weighted_y**5

    def ratio(self, extremes: tuple[float, ...] = (), *, all_looks: bool = False) -> Interval | None:
        """Return the ratio with its 95% t interval, units being the draws; None of fewer than ten units, or where one
        holds all of y.

        `all_looks`: the interval is to hold at all numbers of units together, so also at a moment that they chose. It
        is half as wide again (an asymptotic confidence sequence: Waudby-Smith et al. 2024, the conjugate mixture).

        The variance is corrected for units of unequal size, and the degrees of freedom are Satterthwaite's, both for
        units of which the means vary alike (Bell and McCaffrey 2002): where a few units hold most of y, these few are
        all that there is to learn from.

        `extremes`: the ratios between which the true one lies. The interval is widened as by a further unit of mean
        size at each of them, since the rare may not have been seen yet, and stays within them.
        """
        if self.n < FEWEST or self.y**2 - self.y2 <= 1e-9 * self.y2:
            return None
        mean, k, size = self.x / self.y, len(extremes), self.y / self.n
        sums = (self.y, self.y2, self.y3, self.y4, self.y5)
        y, y2, y3, y4, y5 = (total + k * size**power for power, total in enumerate(sums, start=1))
        squares = self.xx - 2 * mean * self.xy + mean**2 * self.y2
        squares += sum((size * (extreme - mean)) ** 2 for extreme in extremes)
        # The squares of residuals, M m of units' means m with M = diag(y) (1 - 1 y' / sum(y)), sum to tr(M'M) times the
        # variance of a mean; their variance is 2 tr((M'M)^2) times its square.
        c = y2 / y**2
        trace = y2 - 2 * y3 / y + c * y2
        of_square = (
            y4 + 2 * (y3**2 + y2 * y4) / y**2 + (c * y2) ** 2 - 4 * y5 / y + 2 * c * y4 - 4 * c * y2 * y3 / y
        )
        freedom = max(trace**2 / of_square, 1.0)
        centre = (self.x + size * sum(extremes)) / y
        quantile = float(stdtrit(freedom, 1 - _ALPHA / 2)) * (_widening(self.n) if all_looks else 1.0)
        half = quantile * (max(squares, 0.0) * y2 / trace) ** 0.5 / y
        low, high = min(centre - half, mean), max(centre + half, mean)
        if extremes:
            low, high = max(low, min(extremes)), min(high, max(extremes))
        return Interval(mean, low, high)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return {**vars(self)}


def _widening(n: int) -> float:
    """Return how much wider an interval is that holds at all numbers of units together than one for n alone."""
    time = n / _USUAL
    wide = (1 + 1 / time) * (math.log1p(time) - 2 * math.log(_ALPHA))
    return math.sqrt(wide) / float(ndtri(1 - _ALPHA / 2))
