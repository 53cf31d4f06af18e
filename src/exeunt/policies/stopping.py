"""Optimal stopping by backward induction, with regressions in place of what cannot be known.

At the last exit an input must answer. Before that, answering at exit l instead of later gains
value_l - (value where the policy would answer later). Regressed on what the exits up to l have shown, this is the
advantage of stopping; the best policy stops where it is positive (Longstaff and Schwartz 2001).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from exeunt._arrays import Floats
from exeunt.policies.answering import answering
from exeunt.policies.compose import compose
from exeunt.policies.denoised_correctness import denoised_correctness
from exeunt.policies.main_confidence import MainConfidence
from exeunt.policies.rate_path import RatePath, shares, shift_path
from exeunt.policy import Policy
from exeunt.score.kinds import Score
from exeunt.score.learned import Grid, LearnedScore, features
from exeunt.trace import ExitTrace, check_disjoint
from exeunt.trace.cache import cached_on_trace

__all__ = ["Advantages", "Ridge", "Stopping", "induct", "learned", "stopping"]

_PASSED = 0.1
"""Weight in an exit's regression of inputs that left before it; those that reach it have weight 1."""


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

    The first pass gives all inputs the same weight; later ones give less to inputs that left before the exit.
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
    later, after = value[:, m - 1], np.zeros(f)
    for exit_ in range(m - 2, -1, -1):
        pull = n * ridge.next if exit_ < m - 2 else 0.0 * ridge.next
        after, level, centre = _solve(
            columns[exit_] / spread,
            value[:, exit_] - later,
            weight[:, exit_],
            n * ridge.zero + pull,
            pull * after,
        )
        weights[exit_] = after / spread
        intercept[exit_] = level - float(centre @ after)
        fitted[:, exit_] = columns[exit_] @ weights[exit_] + intercept[exit_]
        later = np.where(fitted[:, exit_] >= 0, value[:, exit_], later)
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


_N_PRICES = 128
"""Prices from 0.004 to 8 full networks per right answer, in steps of 6 %."""


@answering
def stopping(
    fit: ExitTrace,
    calibrate: ExitTrace,
    *,
    budget: float | str,
    score: str | Score | None = None,
    history: bool = True,
    shrink: float = 0.1,
    smooth: float = 0.1,
    certainty: float = 0.5,
    seed: int = 0,
    **options: Any,
) -> Policy:
    """Answer where the learned advantage of answering now, not later, is highest.

    The advantage is regressed, by backward induction, on confidence, on what the other scores add, and with
    `history` on the agreement of the exits' predictions. `score`: the main confidence. `shrink`: ridge
    on all but the main confidence; `smooth`: pull of each exit's weights to those of the next; both per unit
    of the price of computation. `certainty`: weight of the labels, the rest being that of the chance of being
    right given what all exits showed (see `denoised_correctness`). The price is the one at which the policy spends
    the budget on the fit inputs; its own shares there are the rates. The other options are those of `compose`.
    """
    check_disjoint(fit, calibrate)
    main = MainConfidence.of(fit, score)
    learner = learned(main.fit, main.name, history, shrink, smooth, certainty)
    rule, path = learner.at(fit.cost.budget(budget))
    return compose(
        "stopping", path, fit, calibrate, budget=budget, score=main.under(rule), seed=seed, **options
    )


@cached_on_trace
def learned(
    fit: ExitTrace,
    score: str | None = None,
    history: bool = True,
    shrink: float = 0.1,
    smooth: float = 0.1,
    certainty: float = 0.5,
) -> Stopping:
    """Return the learner of a fit part, cached because it serves every budget."""
    return Stopping.on(fit, score=score, history=history, shrink=shrink, smooth=smooth, certainty=certainty)


@dataclass(frozen=True, eq=False)
class Stopping:
    """The fit inputs as features. A policy for one more budget takes only a few regressions."""

    grid: Grid
    columns: list[Floats]
    n_main: int
    right: Floats
    cost: Floats
    history: bool
    ridge: Ridge
    _solutions: dict[int, _Solved] = field(default_factory=dict, repr=False)

    @classmethod
    def on(
        cls,
        fit: ExitTrace,
        *,
        score: str | None = None,
        history: bool = True,
        shrink: float = 0.1,
        smooth: float = 0.1,
        certainty: float = 0.5,
    ) -> Stopping:
        """Compute the features of labelled inputs at all exits but the last."""
        grid = Grid.of(fit.scores, fit.default_score if score is None else score)
        columns: list[Floats] = []
        memory: dict[str, Any] = {}
        n_main, n_further = 0, 0
        for exit_ in range(max(fit.n_exits - 1, 1)):
            main, further, memory = features(grid, fit.evidence(exit_), memory, history=history)
            n_main, n_further = len(main), len(further)
            columns.append(np.stack([*main, *further], axis=1))
        zero = np.concatenate([np.full(n_main, 0.006), np.full(n_further, shrink)])
        ridge = Ridge(zero, np.full(len(zero), smooth))
        right = certainty * fit.correct + (1 - certainty) * denoised_correctness(fit, score)
        return cls(grid, columns, n_main, right, fit.cost.cumulative, history, ridge)

    def at(self, budget: float) -> tuple[LearnedScore, RatePath]:
        """Return the score for a budget and the rates that its common threshold gives to any budget."""
        if len(self.cost) == 1:
            empty = np.zeros((0, 0))
            rule = LearnedScore(self.grid, empty, empty, np.zeros(0), self.history)
            return rule, RatePath.through(np.ones((1, 1)), self.cost)
        found = self._solved(self._price_index(budget))
        rule = LearnedScore(
            self.grid,
            found.weights[:, : self.n_main],
            found.weights[:, self.n_main :],
            found.intercept,
            self.history,
        )
        return rule, found.path

    def _price_index(self, budget: float) -> int:
        """Return the index of the price of computation at which the policy spends the budget, to some 6 %."""
        # All budgets share one grid of prices, so that their solutions are reused.
        low, high = 0, _N_PRICES
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._solved(middle).spent > budget else (low, middle)
        return high

    def _solved(self, index: int) -> _Solved:
        if index not in self._solutions:
            price = 0.004 * 2000 ** (index / _N_PRICES)
            value = self.right - price * self.cost / self.cost[-1]
            # The cheaper computation is, the smaller the advantages beside the noise of right and wrong.
            found = induct(self.columns, value, self.ridge.times(1.0 / price))
            fitted = np.pad(found.fitted, ((0, 0), (0, 1)))
            self._solutions[index] = _Solved(
                found.weights,
                found.intercept,
                float(shares(fitted >= 0) @ self.cost),
                shift_path(fitted, self.cost),
            )
        return self._solutions[index]


@dataclass(frozen=True, eq=False)
class _Solved:
    """The solution at one price: weights (m-1, f), intercept (m-1,), what the policy spends, and its rates."""

    weights: Floats
    intercept: Floats
    spent: float
    path: RatePath
