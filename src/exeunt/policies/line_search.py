"""Thresholds that maximise accuracy on the labelled fit inputs under the budget.

A line search maximises accuracy - price * cost over one exit's threshold at a time. With the other thresholds fixed,
what each input gains by leaving at this exit is known. In order of the score, the best threshold is where the running
sum of these gains is highest. Sweeping the exits from the last to the first until nothing improves is coordinate
ascent: the objective never falls.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt._arrays import Floats, Integers
from exeunt.policies.rate_path import RatePath, shares
from exeunt.trace import ExitTrace
from exeunt.trace.cache import cached_on_trace
from exeunt.trace.scoring import score_matrix

if TYPE_CHECKING:
    from exeunt.score.kinds import Score

__all__ = ["PRICES", "ascend", "finite_scores", "line_search_paths", "objective", "price_path"]

PRICES = np.geomspace(0.008, 4.0, 12)
"""Accuracy that pays for one full network's cost, from a high budget to a low one."""


def objective(score: Floats, value: Floats, thresholds: Floats) -> float:
    """Return the mean value (n, m) of inputs that leave at the first exit with score >= threshold."""
    leaves = score >= thresholds
    return float(value[np.arange(len(score)), leaves.argmax(axis=1)].mean())


def ascend(
    score: Floats, order: Integers, value: Floats, thresholds: Floats, sweeps: int = 6
) -> tuple[Floats, float]:
    """Return improved thresholds (m,) and their objective, from thresholds whose last is -inf.

    `score`, `value` (n, m); `order` (n, m): rows by falling score, per exit.
    """
    found, best = thresholds.copy(), objective(score, value, thresholds)
    for _ in range(sweeps):
        trial = _sweep(score, order, value, found)
        reached = objective(score, value, trial)
        if reached <= best + 1e-12:
            break
        found, best = trial, reached
    return found, best


def price_path(score: Floats, correct: Floats, cost: Floats, prices: Iterable[float] = PRICES) -> RatePath:
    """Return the best rates found for each price of computation, each started from the last.

    `score`, `correct` (n, m), `cost` (m,). The search for the first price starts with everything at the last exit,
    that for each other price from its neighbour's result.
    """
    m = score.shape[1]
    order = np.argsort(-score, axis=0, kind="stable")
    never = np.full(m, np.inf)
    never[m - 1] = -np.inf
    found, rates = never, []
    for price in prices:
        found, _ = ascend(score, order, correct - price * cost / cost[-1], found)
        rates.append(shares(score >= found))
    return RatePath.through(np.array(rates), cost)


def _sweep(score: Floats, order: Integers, value: Floats, thresholds: Floats) -> Floats:
    n, m = score.shape
    new = thresholds.copy()
    here = np.zeros((n, m), dtype=bool)  # reaches exit l under the thresholds before it
    here[:, 0] = True
    here[:, 1:] = ~np.logical_or.accumulate(score[:, :-1] >= thresholds[:-1], axis=1)
    later = value[:, m - 1]
    for exit_ in range(m - 2, -1, -1):
        rows = order[here[order[:, exit_], exit_], exit_]
        gain = value[rows, exit_] - later[rows]
        new[exit_] = _best_cut(score[rows, exit_], gain)
        later = np.where(score[:, exit_] >= new[exit_], value[:, exit_], later)
    return new


def _best_cut(falling: Floats, gain: Floats) -> float:
    """Return the threshold on scores in falling order that maximises the gain of those at or above it."""
    if len(falling) == 0:
        return np.inf
    total = np.cumsum(gain)
    # Equal scores leave together.
    total[:-1][falling[1:] == falling[:-1]] = -np.inf
    last = int(total.argmax())
    if total[last] <= 0:
        return np.inf
    if last == len(falling) - 1:
        return float(falling[last])
    between = (falling[last] + falling[last + 1]) / 2
    return float(between if between > falling[last + 1] else falling[last])


@cached_on_trace
def line_search_paths(
    fit: ExitTrace, score: str | Score | None = None, resamples: int = 6, seed: int = 0
) -> tuple[RatePath, ...]:
    """Return one path of rates per bootstrap sample. They serve every budget, so they are cached."""
    scores, correct = score_matrix(score, fit), fit.correct.astype(np.float64)
    rng = np.random.default_rng(seed)

    def path(rows: Any) -> RatePath:
        return price_path(finite_scores(scores[rows]), correct[rows], fit.cost.cumulative)

    if resamples < 1:
        return (path(slice(None)),)
    return tuple(path(rng.integers(0, fit.n, fit.n)) for _ in range(resamples))


def finite_scores(scores: Floats) -> Floats:
    """Infinite scores would meet the thresholds "never" and "always"."""
    return np.nan_to_num(scores, posinf=np.finfo(np.float64).max, neginf=np.finfo(np.float64).min)
