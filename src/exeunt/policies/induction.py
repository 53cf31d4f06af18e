"""Optimal stopping by backward induction, with regressions in place of what cannot be known.

At the last exit an input must answer. Before that, answering at exit l rather than going on gains
value_l - (value where the policy would answer later); regressed on what has been shown up to exit l, this is
the advantage of stopping, and the best policy stops where it is positive (Longstaff and Schwartz 2001).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exeunt._arrays import Floats

__all__ = ["Advantages", "Ridge", "induct"]

_PASSED = 0.1
"""Weight in the regression of inputs that have left before, against 1 for those that get there."""


@dataclass(frozen=True, eq=False)
class Ridge:
    """Penalties per input: `zero` (f,) pulls weights to 0, `next` (f,) to those of the exit after."""

    zero: Floats
    next: Floats

    def times(self, factor: float) -> Ridge:
        """Return penalties `factor` times as strong."""
        return Ridge(self.zero * factor, self.next * factor)


@dataclass(frozen=True, eq=False)
class Advantages:
    """`weights` (m-1, f) and `intercept` (m-1,) of the regressions, `fitted` (n, m-1) on the inputs given."""

    weights: Floats
    intercept: Floats
    fitted: Floats


def induct(columns: Sequence[Floats], value: Floats, ridge: Ridge, passes: int = 2) -> Advantages:
    """Return the advantages of stopping for `value` (n, m), features `columns` m-1 times (n, f).

    The first pass weighs all inputs alike; further ones those most that the policy lets get to an exit.
    """
    n, m = value.shape
    spread = np.sqrt(np.mean([c.var(axis=0) for c in columns], axis=0)) + 1e-9
    weight = np.ones((n, m))
    found = _backwards(columns, value, weight, spread, ridge)
    for _ in range(passes - 1):
        gone = np.logical_or.accumulate(found.fitted >= 0, axis=1)
        weight[:, 1:] = np.where(gone, _PASSED, 1.0)
        found = _backwards(columns, value, weight, spread, ridge)
    return found


def _backwards(
    columns: Sequence[Floats], value: Floats, weight: Floats, spread: Floats, ridge: Ridge
) -> Advantages:
    n, m = value.shape
    f = len(spread)
    weights, intercept, fitted = np.zeros((m - 1, f)), np.zeros(m - 1), np.zeros((n, m - 1))
    going_on, after = value[:, m - 1], np.zeros(f)
    for exit_ in range(m - 2, -1, -1):
        pull = n * ridge.next if exit_ < m - 2 else 0.0 * ridge.next
        after, level, centre = _solve(
            columns[exit_] / spread,
            value[:, exit_] - going_on,
            weight[:, exit_],
            n * ridge.zero + pull,
            pull * after,
        )
        weights[exit_] = after / spread
        intercept[exit_] = level - float(centre @ after)
        fitted[:, exit_] = columns[exit_] @ weights[exit_] + intercept[exit_]
        going_on = np.where(fitted[:, exit_] >= 0, value[:, exit_], going_on)
    return Advantages(weights, intercept, fitted)


def _solve(
    x: Floats, y: Floats, weight: Floats, penalty: Floats, target: Floats
) -> tuple[Floats, float, Floats]:
    """Return ridge weights (f,), the level of y and the centre (f,) of x."""
    total = weight.sum()
    centre, level = weight @ x / total, float(weight @ y / total)
    centred = x - centre
    weighted = centred * weight[:, None]
    gram = weighted.T @ centred
    gram[np.diag_indices(len(penalty))] += penalty + 1e-9 * total
    solved: Floats = np.linalg.solve(gram, weighted.T @ (y - level) + target)
    return solved, level, centre
