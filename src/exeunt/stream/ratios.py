"""Means per request over drawn units, with intervals: ratios of sums, each unit weighed by its probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from scipy.stats import t as student

FEWEST = 10
"""Units for an interval."""
CAREFUL = (1.0, -1.0)
"""Losses of two units more, by which intervals are wide enough where losses are rare (simulated: 93% or more of 95%).
"""


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
    yy: float = 0.0

    def add(self, x: float, y: float, probability: float) -> None:
        """Add a unit that was drawn with this probability."""
        weighted_x, weighted_y = x / probability, y / probability
        self.n += 1
        self.x += weighted_x
        self.y += weighted_y
        self.xx += weighted_x**2
        self.xy += weighted_x * weighted_y
        self.yy += weighted_y**2

    def ratio(self, careful: Sequence[float] = ()) -> Interval | None:
        """Return the ratio with its 95% t interval, units being the draws; None of too few units.

        `careful`: ratios of further units of mean size that widen the interval and leave the ratio as it is: where
        losses are rare, none may have been seen yet.
        """
        if self.n < FEWEST or self.y <= 0:
            return None
        mean = self.x / self.y
        n, size = self.n + len(careful), self.y / self.n
        squares = self.xx - 2 * mean * self.xy + mean**2 * self.yy
        squares += sum((size * (extra - mean)) ** 2 for extra in careful)
        total = self.y + size * len(careful)
        centre = (self.x + size * sum(careful)) / total
        half = float(student.ppf(0.975, n - 1)) * (max(squares, 0.0) * n / (n - 1)) ** 0.5 / total
        return Interval(mean, min(centre - half, mean), max(centre + half, mean))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return {**vars(self)}
