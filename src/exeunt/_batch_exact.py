"""Law of a batch's total cost by enumeration, met in the middle.

The counts of T further inputs are independent negative binomials N_l ~ NB(alpha_l) conditioned on
sum N_l = T. The exits are split into two groups; the outcomes of each are listed, and for every outcome of
one group the outcomes of the other that stay within the budget are found by binary search. Outcomes with
probability below 1e-24 are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from exeunt._arrays import Floats, Integers

_MOST_SORTED = 3e6  # outcomes of one group: about a second and 200 MB
_MOST_SOUGHT = 3e5  # outcomes of the other, each a binary search for every probability
_TINY = 1e-24


@dataclass(frozen=True)
class _Outcomes:
    """Outcomes of a group of exits: inputs that left there, their total cost, probability. (k,) each."""

    size: Integers
    total: Floats
    weight: Floats


class Enumeration:
    """All outcomes of a batch of T inputs, ready for P(total cost <= x)."""

    def __init__(self, n_inputs: int, alpha: Floats, cost: Floats) -> None:
        self._n = n_inputs
        first, second = _groups(n_inputs, alpha)
        pmf = _negative_binomials(n_inputs, alpha)
        few, many = (_outcomes(group, pmf, cost, n_inputs) for group in (first, second))
        if len(few.size) > len(many.size):
            few, many = many, few
        self._few = few
        order = np.lexsort((many.total, many.size))
        self._many = _Outcomes(many.size[order], many.total[order], many.weight[order])
        self._cumulative = np.concatenate([[0.0], np.cumsum(self._many.weight)])
        rest = n_inputs - self._few.size
        self._start = np.searchsorted(self._many.size, rest, side="left")
        self._stop = np.searchsorted(self._many.size, rest, side="right")
        self._norm = float(self._mass(self._stop))

    def probability(self, total: float) -> float:
        """Return P(total cost of the batch <= total)."""
        return min(self._mass(self._positions(total)) / self._norm, 1.0)

    def smallest_within(self, low: float, high: float, q: float) -> float:
        """Return the smallest attainable total in (low, high] with P(<= total) >= q, given P(high) >= q."""
        begin, end = self._positions(low), self._positions(high)
        width = end - begin
        owner = np.repeat(np.arange(len(begin)), width)
        inside = np.arange(len(owner)) - np.repeat(np.cumsum(width) - width, width) + begin[owner]
        totals = self._few.total[owner] + self._many.total[inside]
        weights = self._few.weight[owner] * self._many.weight[inside] / self._norm
        order = np.argsort(totals)
        reached = self.probability(low) + np.cumsum(weights[order])
        if len(totals) == 0:
            return high
        at = min(int(np.searchsorted(reached, q * (1 - 1e-13))), len(totals) - 1)
        return float(totals[order][at])

    def _positions(self, total: float) -> Integers:
        """For each outcome of the first group, where the second's affordable outcomes end."""
        left = total - self._few.total
        low, high = self._start.copy(), self._stop.copy()
        while True:
            open_ = low < high
            if not open_.any():
                return low
            middle = (low + high) // 2
            within = open_ & (self._many.total[np.minimum(middle, len(self._many.total) - 1)] <= left)
            low = np.where(within, middle + 1, low)
            high = np.where(open_ & ~within, middle, high)

    def _mass(self, stop: Integers) -> float:
        return float(self._few.weight @ (self._cumulative[stop] - self._cumulative[self._start]))


def enumerable(n_inputs: int, alpha: Floats) -> bool:
    """Whether the outcomes of a batch are few enough to list."""
    boxes = _boxes(n_inputs, alpha)
    if len(alpha) * n_inputs > 1e7:
        return False
    few, many = sorted(_n_outcomes(boxes[group], n_inputs) for group in _groups(n_inputs, alpha))
    return few <= _MOST_SOUGHT and many <= _MOST_SORTED


def _boxes(n_inputs: int, alpha: Floats) -> Floats:
    """How many values each exit's count takes with noticeable probability, (m,)."""
    ratio = n_inputs / alpha.sum()
    boxes: Floats = np.minimum(n_inputs + 1.0, 18 * np.sqrt(alpha * ratio * (1 + ratio)) + 20)
    return boxes


def _n_outcomes(boxes: Floats, n_inputs: int) -> float:
    """About how many outcomes a group has: a box, cut by sum <= T."""
    simplex = np.prod((n_inputs + np.arange(1.0, len(boxes) + 1)) / np.arange(1.0, len(boxes) + 1))
    return float(min(np.prod(boxes), simplex))


def _groups(n_inputs: int, alpha: Floats) -> tuple[Integers, Integers]:
    """Split the exits so that both groups have about as many outcomes; the second is never empty."""
    boxes = _boxes(n_inputs, alpha)
    members: tuple[list[int], list[int]] = ([], [])
    sizes = [1.0, 1.0]
    for exit_ in np.argsort(-boxes):
        to = 1 if sizes[1] <= sizes[0] else 0
        members[to].append(int(exit_))
        sizes[to] *= boxes[exit_]
    return np.array(members[0], dtype=np.int64), np.array(members[1], dtype=np.int64)


def _outcomes(group: Integers, pmf: Floats, cost: Floats, n_inputs: int) -> _Outcomes:
    size, total, weight = np.zeros(1, dtype=np.int64), np.zeros(1), np.ones(1)
    for exit_ in group:
        count = np.flatnonzero(pmf[exit_] > _TINY)
        new_size = (size[:, None] + count).ravel()
        new_weight = (weight[:, None] * pmf[exit_][count]).ravel()
        kept = np.flatnonzero((new_size <= n_inputs) & (new_weight > _TINY))
        before, which = np.divmod(kept, len(count))
        total = total[before] + cost[exit_] * count[which]
        size, weight = new_size[kept], new_weight[kept]
    return _Outcomes(size, total, weight)


def _negative_binomials(n_inputs: int, alpha: Floats) -> Floats:
    """Probabilities of N_l = 0..T, (m, T + 1), with the success odds that make sum E[N_l] = T.

    Sums of log ratios run outwards from the mode, where they are small: log-gamma functions would lose
    digits for large counts.
    """
    k = np.arange(1.0, n_inputs + 1)
    rho = n_inputs / (alpha.sum() + n_inputs)
    table = np.zeros((len(alpha), n_inputs + 1))
    for row, a in zip(table, alpha, strict=True):
        steps = np.log(rho * (a + k - 1) / k)
        mode = int(np.sum(steps > 0))
        row[mode + 1 :] = np.cumsum(steps[mode:])
        row[:mode] = np.cumsum(-steps[:mode][::-1])[::-1]
        np.exp(row, out=row)
        row /= row.sum()
    return table
