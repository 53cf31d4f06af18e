"""Rates searched on the labelled fit inputs: paths of rates for every budget, and the line search that finds them.

A line search maximises accuracy - price * cost over one exit's threshold at a time. With the other thresholds fixed,
it is known what each input gains by leaving at this exit. In order of the score, the best threshold is where the
running sum of these gains is highest. The search sweeps over the exits from the last to the first until nothing
improves. This is coordinate ascent: the objective never falls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from exeunt._support import arrays
from exeunt._support.arrays import Booleans, Floats, Integers
from exeunt.policy.calibration import release_batch
from exeunt.score.tie_breaking import distinct_tie_breaks
from exeunt.trace import ExitTrace
from exeunt.trace.derived import cached_on_trace, score_matrix
from exeunt.trace.splitting import bootstrap_rows, folds_of

if TYPE_CHECKING:
    from exeunt.score.kinds import Score

_PRICES = np.geomspace(0.008, 4.0, 12)
"""Accuracy that pays for one full network's cost, from a high budget to a low one."""


@dataclass(frozen=True, eq=False)
class RatePath:
    """Rates (p, m) in order of their mean cost, from "all at the first exit" to "all at the last".

    `path(budget)` returns rates (m,) whose mean cost is the budget. The mean cost is linear in the rates, so a mixture
    of the two neighbours on the path meets it exactly. A path is an allocation for `exeunt.compose`.
    """

    rates: Floats
    cost: Floats

    @classmethod
    def through(cls, rates: Floats, cost: Floats) -> RatePath:
        """Make a path through rates (p, m) in any order; the two ends are added."""
        m = len(cost)
        ends = np.eye(m)[[0, m - 1]]
        vertices = np.concatenate([ends[:1], rates.reshape(-1, m), ends[1:]])
        order = np.argsort(vertices @ cost, kind="stable")
        # The ends are the cheapest and the most expensive; keep them there if others cost the same.
        order = np.concatenate([[0], order[(order > 0) & (order < len(vertices) - 1)], [len(vertices) - 1]])
        return cls(arrays.frozen(vertices[order]), cost)

    def __call__(self, budget: float) -> Floats:
        """Return rates (m,) that cost `budget` on average, or the nearer end beyond the path."""
        costs = self.rates @ self.cost
        above = int(np.clip(np.searchsorted(costs, budget), 1, len(costs) - 1))
        gap = costs[above] - costs[above - 1]
        share = float(np.clip((budget - costs[above - 1]) / gap, 0.0, 1.0)) if gap > 0 else 0.0
        mixed: Floats = (1 - share) * self.rates[above - 1] + share * self.rates[above]
        rates: Floats = mixed / mixed.sum()
        return rates


def mean_of_paths(paths: Sequence[RatePath], budget: float) -> Floats:
    """Return the mean (m,) of the rates of several paths at a budget; it costs the budget as well."""
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


def common_threshold_path(score: Floats, cost: Floats, points: int = 100) -> RatePath:
    """Return the rates of one common threshold on `score` (n, m), for `points` thresholds from low to high."""
    if score.shape[1] == 1:
        return RatePath.through(np.ones((1, 1)), cost)
    # The highest score of an input up to each exit: with threshold t it leaves where this first reaches t.
    best = np.sort(np.maximum.accumulate(score[:, :-1], axis=1), axis=0)
    values = np.unique(best)
    thresholds = values[np.unique(np.linspace(0, len(values) - 1, points).astype(np.int64))]
    below = np.stack([np.searchsorted(column, thresholds) for column in best.T], axis=1)
    left = np.pad(1.0 - below / len(score), ((0, 0), (1, 1)), constant_values=((0, 0), (0.0, 1.0)))
    return RatePath.through(np.diff(left, axis=1), cost)


def objective(score: Floats, worth: Floats, thresholds: Floats) -> float:
    """Return the mean value (n, m) of inputs that leave at the first exit with score >= threshold."""
    leaves = score >= thresholds
    return float(worth[np.arange(len(score)), leaves.argmax(axis=1)].mean())


def ascend(
    score: Floats, order: Integers, worth: Floats, thresholds: Floats, sweeps: int = 6
) -> tuple[Floats, float]:
    """Return improved thresholds (m,) and their objective, from thresholds whose last is -inf.

    `score`, `worth` (n, m); `order` (n, m): rows by falling score, per exit.
    """
    highest, best = thresholds.copy(), objective(score, worth, thresholds)
    for _ in range(sweeps):
        trial = _sweep(score, order, worth, highest)
        if np.array_equal(trial, highest):
            break
        reached = objective(score, worth, trial)
        if reached <= best + 1e-12:
            break
        highest, best = trial, reached
        if score.shape[1] <= 2:  # a single threshold is the best one after a sweep
            break
    return highest, best


def price_path(score: Floats, quality: Floats, cost: Floats) -> RatePath:
    """Return the best rates found for each price of computation.

    `score`, `quality` (n, m), `cost` (m,). The search for the first price starts with everything at the last exit, the
    search for each other price with the thresholds found for the price before.
    """
    # Infinite scores would meet the thresholds "never" and "always".
    score = np.nan_to_num(score, posinf=np.finfo(np.float64).max, neginf=np.finfo(np.float64).min)
    m = score.shape[1]
    order = np.argsort(-score, axis=0, kind="stable")
    limits = np.full(m, np.inf)
    limits[m - 1] = -np.inf
    rates = []
    for price in _PRICES:
        limits, _ = ascend(score, order, quality - price * cost / cost[-1], limits)
        rates.append(shares(score >= limits))
    return RatePath.through(np.array(rates), cost)


def _sweep(score: Floats, order: Integers, worth: Floats, thresholds: Floats) -> Floats:
    n, m = score.shape
    new = thresholds.copy()
    here = np.zeros((n, m), dtype=bool)  # reaches exit l under the thresholds before it
    here[:, 0] = True
    here[:, 1:] = ~np.logical_or.accumulate(score[:, :-1] >= thresholds[:-1], axis=1)
    later = worth[:, m - 1]
    for exit_ in range(m - 2, -1, -1):
        rows = order[here[order[:, exit_], exit_], exit_]
        gain = worth[rows, exit_] - later[rows]
        new[exit_] = _best_cut(score[rows, exit_], gain)
        later = np.where(score[:, exit_] >= new[exit_], worth[:, exit_], later)
    return new


def _best_cut(falling: Floats, gain: Floats) -> float:
    """Return the threshold on scores in falling order that maximises the gain of the inputs at or above it."""
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
def line_search_paths(fit: ExitTrace, score: str | Score, resamples: int, seed: int) -> tuple[RatePath, ...]:
    """Return one path of rates per bootstrap sample, cached because the paths serve every budget."""
    scores, quality = score_matrix(score, fit), fit.quality
    rng = np.random.default_rng(seed)
    drawn = (bootstrap_rows(fit.n, rng, fit.groups) for _ in range(resamples))
    return tuple(price_path(scores[rows], quality[rows], fit.cost.cumulative) for rows in drawn)


class RightWithin:
    """Whether each input of a trace is answered right within a mean cost, for any amount.

    The rates of one half of the inputs are searched on the other half, once for all amounts.
    """

    def __init__(self, trace: ExitTrace, seed: int) -> None:
        scores, quality = score_matrix(None, trace), trace.quality
        ties, self._cost = distinct_tie_breaks(trace.id, seed), trace.cost.cumulative
        self._n = trace.n

        def half(rows: Integers) -> _Half:
            return _Half(scores[rows], ties[rows], quality[rows])

        self._halves = [
            (rows, half(rows), half(rest), price_path(scores[rest], quality[rest], self._cost))
            for rest, rows in folds_of(trace.id, 2, seed, trace.groups)
        ]
        # Half of a path's rates are the same as others on it.
        self._rates = [[rates.tobytes() for rates in path.rates] for *_, path in self._halves]
        self._costs = [path.rates @ self._cost for *_, path in self._halves]
        self._reached: dict[tuple[int, bytes], float] = {}

    def __call__(self, amount: float) -> Floats:
        """Return whether each input is answered right, (n,), within a mean cost of `amount`."""
        right = np.empty(self._n)
        for number, (rows, held, searched, path) in enumerate(self._halves):
            within, keys = np.flatnonzero(self._costs[number] <= amount).tolist(), self._rates[number]
            for k in within:
                if (number, keys[k]) not in self._reached:
                    self._reached[number, keys[k]] = float(searched.right(path.rates[k]).mean())
            mixed = path(amount)
            reached = [*(self._reached[number, keys[k]] for k in within), float(searched.right(mixed).mean())]
            right[rows] = held.right([*path.rates[within], mixed][int(np.argmax(reached))])
        return right


class _Half(NamedTuple):
    """Inputs: their scores (n, m), ties (n,), and whether each exit is right (n, m)."""

    scores: Floats
    ties: Floats
    quality: Floats

    def right(self, rates: Floats) -> Floats:
        """Return whether each input is answered right, (n,), as a batch with these rates."""
        released: Floats = self.quality[
            np.arange(len(self.quality)), release_batch(self.scores, self.ties, rates)
        ]
        return released


@cached_on_trace
def rights_of(trace: ExitTrace, *, seed: int) -> RightWithin:
    """Return `RightWithin` of a trace, cached because it serves every budget."""
    return RightWithin(trace, seed)


def beats(right: Floats, other: Floats, by: float = 0.5) -> bool:
    """Return whether answers, right or wrong (n,), are more accurate than others by so many standard errors."""
    gain = right - other
    return bool(gain.mean() > by * gain.std() / gain.size**0.5)
