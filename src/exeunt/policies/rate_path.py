"""Rates for every budget from rates for a few: neighbours on a path are mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from exeunt import _arrays
from exeunt._arrays import Booleans, Floats

__all__ = ["RatePath", "mean_of_paths", "shares", "shift_path"]


@dataclass(frozen=True, eq=False)
class RatePath:
    """Rates (p, m) in order of their mean cost, from "all at the first exit" to "all at the last".

    `path(budget)` returns rates (m,) whose mean cost is the budget: the mean cost is linear in the rates, so
    mixing the two neighbours meets it exactly. It is an allocation for `exeunt.compose`.
    """

    rates: Floats
    cost: Floats

    @classmethod
    def through(cls, rates: Floats, cost: Floats) -> RatePath:
        """Make a path through rates (p, m) in any order; the two ends are added."""
        m = len(cost)
        ends = np.eye(m)[[0, m - 1]]
        whole = np.concatenate([ends[:1], rates.reshape(-1, m), ends[1:]])
        order = np.argsort(whole @ cost, kind="stable")
        # The ends are the cheapest and the most expensive; keep them there if others cost the same.
        order = np.concatenate([[0], order[(order > 0) & (order < len(whole) - 1)], [len(whole) - 1]])
        return cls(_arrays.frozen(whole[order]), cost)

    def __call__(self, budget: float) -> Floats:
        """Return rates (m,) that cost `budget` on average, or the nearer end beyond the path."""
        spent = self.rates @ self.cost
        above = int(np.clip(np.searchsorted(spent, budget), 1, len(spent) - 1))
        gap = spent[above] - spent[above - 1]
        share = float(np.clip((budget - spent[above - 1]) / gap, 0.0, 1.0)) if gap > 0 else 0.0
        mixed: Floats = (1 - share) * self.rates[above - 1] + share * self.rates[above]
        rates: Floats = mixed / mixed.sum()
        return rates


def mean_of_paths(paths: Sequence[RatePath], budget: float) -> Floats:
    """Return the mean (m,) of what several paths give to a budget; it costs the budget as well."""
    total: Floats = np.sum([path(budget) for path in paths], axis=0)
    mean: Floats = total / total.sum()
    return mean


def shares(leaves: Booleans) -> Floats:
    """Return the share of inputs that leave at each exit, (m,).

    `leaves` (n, m): whether an input would leave if it got there; at the last exit all do.
    """
    n, m = leaves.shape
    ends = leaves.copy()
    ends[:, m - 1] = True
    counted: Floats = np.bincount(ends.argmax(axis=1), minlength=m) / n
    return counted


def shift_path(score: Floats, cost: Floats, points: int = 100) -> RatePath:
    """Return the rates of one common threshold on `score` (n, m), for thresholds from low to high."""
    if score.shape[1] == 1:
        return RatePath.through(np.ones((1, 1)), cost)
    # The most that an input showed up to each exit: with threshold t it leaves where this first reaches t.
    best = np.sort(np.maximum.accumulate(score[:, :-1], axis=1), axis=0)
    values = np.unique(best)
    thresholds = values[np.unique(np.linspace(0, len(values) - 1, points).astype(np.int64))]
    below = np.stack([np.searchsorted(column, thresholds) for column in best.T], axis=1)
    left = np.pad(1.0 - below / len(score), ((0, 0), (1, 1)), constant_values=((0, 0), (0.0, 1.0)))
    return RatePath.through(np.diff(left, axis=1), cost)
