"""Optimal stopping: leave where answering now is worth more than going on, as learned from labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt.learned_score import Grid, LearnedScore, features
from exeunt.policies.hindsight import hindsight
from exeunt.policies.induction import Ridge, induct
from exeunt.policies.memo import kept_with_trace
from exeunt.policies.rate_path import RatePath, shares, shift_path
from exeunt.presets import compose
from exeunt.trace import check_disjoint

if TYPE_CHECKING:
    from exeunt._arrays import Floats
    from exeunt.policy import Policy
    from exeunt.trace import ExitTrace

__all__ = ["Stopping", "learned", "stopping"]

_STEPS = 128
"""Prices from 0.004 to 8 full networks per right answer, in steps of 6 %."""


def stopping(
    fit: ExitTrace,
    calibrate: ExitTrace,
    *,
    budget: float | str,
    score: str | None = None,
    history: bool = True,
    shrink: float = 0.1,
    smooth: float = 0.1,
    certainty: float = 0.5,
    seed: int = 0,
    **options: Any,
) -> Policy:
    """Answer where the learned advantage of answering now over going on is highest.

    The advantage is regressed, by backward induction, on confidence, on what the other scores add, and with
    `history` on the agreement of the exits' predictions. `score` names the main confidence. `shrink`: ridge
    on all but the main confidence; `smooth`: pull of each exit's weights to those of the next; both per unit
    of the price of computation. `certainty`: weight of the labels, the rest being that of the chance of being
    right in hindsight (see `hindsight`), which is less noisy. The price is the one at which the policy spends
    the budget on the fit inputs; its own shares there are the rates. The other options are those of `compose`.
    """
    check_disjoint(fit, calibrate)
    learner = learned(fit, score, history, shrink, smooth, certainty)
    rule, path = learner.at(fit.cost.budget(budget))
    return compose("stopping", path, fit, calibrate, budget=budget, score=rule, seed=seed, **options)


@kept_with_trace
def learned(
    fit: ExitTrace,
    score: str | None = None,
    history: bool = True,
    shrink: float = 0.1,
    smooth: float = 0.1,
    certainty: float = 0.5,
) -> Stopping:
    """Return the learner of a fit part, kept so that further budgets are cheap."""
    return Stopping.on(fit, score=score, history=history, shrink=shrink, smooth=smooth, certainty=certainty)


@dataclass(frozen=True, eq=False)
class Stopping:
    """The fit inputs as features: a policy for one more budget costs a few regressions only."""

    grid: Grid
    columns: list[Floats]
    n_main: int
    right: Floats
    cost: Floats
    history: bool
    ridge: Ridge
    _known: dict[int, _Solved] = field(default_factory=dict, repr=False)

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
        right = certainty * fit.correct + (1 - certainty) * hindsight(fit, score)
        return cls(grid, columns, n_main, right, fit.cost.cumulative, history, ridge)

    def at(self, budget: float) -> tuple[LearnedScore, RatePath]:
        """Return the score for a budget and the rates that its common threshold gives to any budget."""
        if len(self.cost) == 1:
            empty = np.zeros((0, 0))
            rule = LearnedScore(self.grid, empty, empty, np.zeros(0), self.history)
            return rule, RatePath.through(np.ones((1, 1)), self.cost)
        found = self._solved(self._step(budget))
        rule = LearnedScore(
            self.grid,
            found.weights[:, : self.n_main],
            found.weights[:, self.n_main :],
            found.intercept,
            self.history,
        )
        return rule, found.path

    def _step(self, budget: float) -> int:
        """Return the price of computation, as a step, at which the policy spends the budget, to some 6 %."""
        # Prices are taken from one grid, so that other budgets find them solved.
        low, high = 0, _STEPS
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._solved(middle).spent > budget else (low, middle)
        return high

    def _solved(self, step: int) -> _Solved:
        if step not in self._known:
            price = 0.004 * 2000 ** (step / _STEPS)
            value = self.right - price * self.cost / self.cost[-1]
            # The cheaper computation is, the smaller the advantages beside the noise of right and wrong.
            found = induct(self.columns, value, self.ridge.times(1.0 / price))
            fitted = np.pad(found.fitted, ((0, 0), (0, 1)))
            self._known[step] = _Solved(
                found.weights,
                found.intercept,
                float(shares(fitted >= 0) @ self.cost),
                shift_path(fitted, self.cost),
            )
        return self._known[step]


@dataclass(frozen=True, eq=False)
class _Solved:
    """What is kept of a price: weights (m-1, f), intercept (m-1,), what the policy spends, and its rates."""

    weights: Floats
    intercept: Floats
    spent: float
    path: RatePath
