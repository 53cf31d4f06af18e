"""Random mixtures of two exits: what a budget buys with no score at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from exeunt._arrays import Floats, Integers

__all__ = ["mixture_curve", "upper_hull"]


def mixture_curve(
    cost: Floats, fit_accuracy: Floats, test_accuracy: Floats, amounts: Floats
) -> tuple[Floats, Floats]:
    """Return expected accuracy and spend (q,) of the best lottery between two exits for each budget.

    `cost`, `fit_accuracy`, `test_accuracy` (m,): the lottery is chosen by the fit accuracy and measured by the
    test accuracy. `amounts` (q,): budgets, none below the first exit's cost. Beyond the exit that is best on
    the fit part nothing more is spent.
    """
    hull = upper_hull(cost, fit_accuracy)
    spend: Floats = np.minimum(amounts, cost[hull[-1]])
    # Between two corners of the hull accuracy and cost are both linear in the odds.
    accuracy: Floats = np.interp(spend, cost[hull], test_accuracy[hull])
    return accuracy, spend


def upper_hull(x: Floats, y: Floats) -> Integers:
    """Return the corners of the upper concave hull of points in order of x, from the first up to the highest.

    `x` (m,) strictly increasing. What lies beyond the highest point is left out: it gains nothing. Of points
    equally high the cheapest is the highest.
    """
    hull: list[int] = []
    for point in range(int(np.argmax(y)) + 1):
        while len(hull) > 1 and not _turns_down(x, y, hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return np.array(hull, dtype=np.int64)


def _turns_down(x: Floats, y: Floats, a: int, b: int, c: int) -> bool:
    """Whether the way from a over b to c bends down at b."""
    return bool((y[b] - y[a]) * (x[c] - x[a]) > (y[c] - y[a]) * (x[b] - x[a]))
