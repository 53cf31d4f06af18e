"""Optimal stopping by backward induction, with regressions in place of the values that are not known yet.

At the last exit an input must answer. Before that, answering at exit l instead of later gains
value_l - (value where the policy would answer later). Regressed on the outputs of the exits up to l, this is the
advantage of stopping; the best policy stops where it is positive (Longstaff and Schwartz 2001).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from exeunt._support.arrays import Floats
from exeunt.policy.allocation_search import RatePath, common_threshold_path, shares
from exeunt.policy.compose import Composition, FitPart, composed
from exeunt.policy.learned_quality import Features, denoised_correctness, features_of
from exeunt.score.learned import LearnedScore
from exeunt.trace import ExitTrace
from exeunt.trace.derived import cached_on_trace

_PASSED = 0.1
"""Weight in an exit's regression of inputs that left before it; those that reach it have weight 1."""
_MAIN_SHRINK, _SHRINK = 0.006, 0.1
"""Ridge on the weights of the main confidence, and on the others, per unit of the price of computation."""
_SMOOTH = 0.1
"""Penalty that pulls each exit's weights to the next exit's, per unit of the price of computation."""
_N_PRICES = 128
"""Prices from 0.004 to 8 full networks per right answer, in steps of 6%."""


@composed
def stopping(part: FitPart) -> Composition:
    """Answers where the next exits gain less than they cost, as learned from the fit part.

    The advantage of answering now, not later, is regressed, by backward induction, on confidence, on what the other
    scores add, and on the agreement of the exits' predictions. The value of an answer is the mean of its label and of
    `denoised_correctness`, less the price of computation. The price is the one at which the policy costs the budget on
    the fit inputs; its own shares there are the rates. `score`: the main confidence. It also takes the arguments of all
    policies, see `compose`.
    """
    rule, path = learned(*part.scored).at(part.budget)
    return Composition(path, rule)


def induct(
    scaled: Sequence[Floats], worth: Floats, to_zero: Floats, to_next: float, passes: int = 2
) -> tuple[Floats, Floats, Floats]:
    """Return weights (m-1, f) and intercepts (m-1,) of the advantages of stopping, and their values (n, m-1).

    `worth` (n, m): of answering at each exit. `scaled`: the features, m-1 times (f, n), of about unit spread.
    Penalties per input: `to_zero` (f,) pulls weights to 0, `to_next` to the weights of the exit after. The first pass
    gives all inputs the same weight; later ones give less to inputs that left before the exit.
    """
    n, m = worth.shape
    weight = np.ones((n, m))
    weights, intercept, fitted = np.zeros((m - 1, len(to_zero))), np.zeros(m - 1), np.zeros((n, m - 1))
    for number in range(passes):
        if number:
            gone = np.logical_or.accumulate(fitted >= 0, axis=1)
            weight[:, 1:] = np.where(gone, _PASSED, 1.0)
        later, after = worth[:, m - 1], np.zeros(len(to_zero))
        for exit_ in range(m - 2, -1, -1):
            pull = n * to_next if exit_ < m - 2 else 0.0
            x, y = scaled[exit_], worth[:, exit_] - later
            after, level, centre = _solve(x, y, weight[:, exit_], n * to_zero + pull, pull * after)
            weights[exit_] = after
            intercept[exit_] = level - float(centre @ after)
            fitted[:, exit_] = after @ x + intercept[exit_]
            later = np.where(fitted[:, exit_] >= 0, worth[:, exit_], later)
    return weights, intercept, fitted


def _solve(
    x: Floats, y: Floats, weight: Floats, penalty: Floats, target: Floats
) -> tuple[Floats, float, Floats]:
    """Return ridge weights (f,), the level of y and the centre (f,) of x (f, n)."""
    total = weight.sum()
    centre, level = x @ weight / total, float(weight @ y / total)
    centred = x - centre[:, None]
    weighted = centred * weight
    gram = weighted @ centred.T
    gram[np.diag_indices(len(penalty))] += penalty + 1e-9 * total
    solved: Floats = np.linalg.solve(gram, weighted @ (y - level) + target)
    return solved, level, centre


@cached_on_trace
def learned(fit: ExitTrace, score: str | None = None) -> Stopping:
    """Return what stopping learns from labelled inputs, cached because it serves every budget."""
    return Stopping(
        features_of(fit, score), (fit.quality + denoised_correctness(fit, score)) / 2, fit.cost.cumulative
    )


@dataclass(frozen=True, eq=False)
class Stopping:
    """Features of the fit inputs, and how right each exit is, (n, m). One more budget takes few regressions."""

    features: Features
    right: Floats
    cost: Floats
    _solutions: dict[int, tuple[Floats, Floats, float]] = field(default_factory=dict, repr=False)
    _policies: dict[int, tuple[LearnedScore, RatePath]] = field(default_factory=dict, repr=False)

    @cached_property
    def _scaled(self) -> list[Floats]:
        """The features of unit spread, m-1 times (f, n): with few features first, NumPy is three times as fast."""
        return [np.ascontiguousarray((columns / self.features.spread).T) for columns in self.features.columns]

    def at(self, budget: float) -> tuple[LearnedScore, RatePath]:
        """Return the score for a budget and the rates that its common threshold gives to any budget."""
        if len(self.cost) == 1:
            rule = self.features.score(np.zeros((0, len(self.features.spread))), np.zeros(0))
            return rule, RatePath.through(np.ones((1, 1)), self.cost)
        # The price at which the policy costs the budget, to some 6%. All budgets share one grid of prices, so that
        # their solutions are reused.
        low, high = 0, _N_PRICES
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._solved(middle)[2] > budget else (low, middle)
        if high not in self._policies:
            weights, intercept, _ = self._solved(high)
            rule = self.features.score(weights / self.features.spread, intercept)
            fitted = [w @ x + level for w, x, level in zip(weights, self._scaled, intercept, strict=True)]
            path = common_threshold_path(np.stack([*fitted, np.zeros(len(self.right))], axis=1), self.cost)
            self._policies[high] = rule, path
        return self._policies[high]

    def _solved(self, index: int) -> tuple[Floats, Floats, float]:
        """Return the solution at one price: weights and intercepts as of `induct`, and the mean cost of the policy."""
        if index not in self._solutions:
            price = 0.004 * 2000 ** (index / _N_PRICES)
            worth = self.right - price * self.cost / self.cost[-1]
            # The cheaper computation is, the smaller the advantages beside the noise of right and wrong.
            to_zero = np.full(len(self.features.spread), _SHRINK)
            to_zero[: self.features.n_main] = _MAIN_SHRINK
            weaker = 1.0 / price
            weights, intercept, fitted = induct(self._scaled, worth, to_zero * weaker, _SMOOTH * weaker)
            mean = float(shares(np.pad(fitted >= 0, ((0, 0), (0, 1)))) @ self.cost)
            self._solutions[index] = weights, intercept, mean
        return self._solutions[index]
