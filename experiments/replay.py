"""Policies compared input by input on seeded splits of a trace, so that differences have an interval for new inputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import exeunt as ex
from exeunt.rules import baselines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SEQUENTIAL, MARGINAL = "EERO, sequential", "EERO, marginal (the paper)"
CERTIFIED = "EERO, delta = 0.05"
RIVALS = {
    "geometric": baselines.msdnet,
    "Gaussian, σ = 0.5": partial(baselines.predictive_exit, sigma=0.5),
    "Gaussian, σ = 2": partial(baselines.predictive_exit, sigma=2.0),
}
MARGINAL_RIVALS = {name: f"{name}, marginal" for name in RIVALS}
PRESETS: dict[str, Callable[..., ex.Policy]] = {
    SEQUENTIAL: ex.eero,
    MARGINAL: partial(ex.eero, calibration="marginal"),
    **RIVALS,
    "one common threshold": ex.common_threshold,
    CERTIFIED: partial(ex.eero, delta=0.05),
    **{MARGINAL_RIVALS[name]: partial(rival, calibration="marginal") for name, rival in RIVALS.items()},
}


class Gain(NamedTuple):
    """A mean difference in accuracy with its 95% interval over inputs."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, difference: np.ndarray) -> Gain:
        """`difference` (n,): for each input, how much more often the first policy is right than the second."""
        half = 1.96 * float(difference.std(ddof=1)) / len(difference) ** 0.5
        mean = float(difference.mean())
        return cls(mean, mean - half, mean + half)

    @property
    def sign(self) -> int:
        """1 where the interval lies above zero, -1 where it lies below, else 0."""
        return int(self.low > 0) - int(self.high < 0)


@dataclass(frozen=True)
class Replay:
    """p policies at q budgets over s splits of one trace of n inputs.

    `budgets` (q,): in the unit of the trace's cost. `accuracy`, `mean_cost` (p, q, s): on the test parts. `oracle`
    (q, s): accuracy. `right` (p, q, n): how often the policy was right on the input, of the splits that tested it.
    All are NaN for a budget that cannot be guaranteed. `tested`: places of the inputs that some split tested.
    """

    names: tuple[str, ...]
    budgets: np.ndarray
    trace: ex.ExitTrace
    accuracy: np.ndarray
    mean_cost: np.ndarray
    oracle: np.ndarray
    right: np.ndarray
    tested: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """The budgets as shares of the full cost, (q,)."""
        return self.budgets / self.trace.cost.full

    def cost_shares(self, name: str) -> np.ndarray:
        """Return a policy's mean costs as shares of the full cost, (q, s)."""
        return self.mean_cost[self.names.index(name)] / self.trace.cost.full

    def accuracies(self, name: str) -> np.ndarray:
        """Return a policy's accuracies, (q, s)."""
        return self.accuracy[self.names.index(name)]

    def against(self, name: str, rival: str, q: int) -> Gain | None:
        """Return how much more accurate `name` at budget q is than `rival` at the same mean cost.

        The rival is a random mixture of the two of its budgets whose mean costs lie around, which any user could run.
        None where a mean cost is unknown or the rival does not reach it.
        """
        r = self.names.index(rival)
        return self._gain(self.names.index(name), q, self.mean_cost[r].mean(axis=1), self.right[r])

    def against_exits(self, name: str, q: int) -> Gain | None:
        """Return how much more accurate `name` at budget q is than single exits at the same mean cost.

        At the cost of an exit the rival is that exit; between two exits it is a random mixture of both.
        """
        return self._gain(self.names.index(name), q, self.trace.cost.cumulative, self.trace.correct.T)

    def against_exit(self, name: str, q: int, exit_: int) -> Gain:
        """Return how much more accurate `name` at budget q is than exit `exit_` alone."""
        right = self.right[self.names.index(name), q]
        return Gain.of((right - self.trace.correct[:, exit_])[self.tested])

    def _gain(self, p: int, q: int, cost: np.ndarray, right: np.ndarray) -> Gain | None:
        own = float(self.mean_cost[p, q].mean())
        if not np.isfinite(own) or not np.isfinite(cost).all():
            return None
        order = np.argsort(cost, kind="stable")
        steps = cost[order]
        if not steps[0] * (1 - 1e-9) <= own <= steps[-1] * (1 + 1e-9):
            return None
        high = int(np.clip(np.searchsorted(steps, own), 1, len(steps) - 1))
        gap = steps[high] - steps[high - 1]
        share = min(max((own - steps[high - 1]) / gap, 0.0), 1.0) if gap > 0 else 0.0
        mixed = (1 - share) * right[order[high - 1]] + share * right[order[high]]
        return Gain.of((self.right[p, q] - mixed)[self.tested])


def replay(
    trace: ex.ExitTrace,
    budgets: Sequence[float],
    *,
    parts: Mapping[str, float],
    splits: int,
    policies: Mapping[str, Callable[..., ex.Policy]] = PRESETS,
) -> Replay:
    """Fit, calibrate and test every policy at every budget on seeded splits 0 to `splits` - 1.

    `parts`: the shares of inputs to fit, calibrate and test.
    """
    shape = (len(policies), len(budgets))
    right, times_tested = np.zeros((*shape, trace.n)), np.zeros(trace.n)
    accuracy, mean_cost = np.full((2, *shape, splits), np.nan)
    oracle = np.empty((len(budgets), splits))
    for s in range(splits):
        fit, calibrate, test = trace.split(**parts, seed=s)
        # Inputs with equal keys are always in one part, so keys tell which rows were drawn.
        rows = np.flatnonzero(np.isin(trace.id, test.id))
        times_tested[rows] += 1
        for q, budget in enumerate(budgets):
            oracle[q, s] = ex.oracle(test, budget).accuracy
            for p, preset in enumerate(policies.values()):
                try:
                    policy = preset(fit, calibrate, budget=budget)
                except ex.InfeasibleBudget:
                    right[p, q] = np.nan
                    continue
                result = ex.evaluate(policy, test)
                accuracy[p, q, s], mean_cost[p, q, s] = result.accuracy, result.cost
                right[p, q, rows] += policy.answers(test) == test.label
        print(f"split {s + 1} of {splits}", flush=True)
    right /= np.maximum(times_tested, 1)
    tested = np.flatnonzero(times_tested)
    return Replay(tuple(policies), np.array(budgets), trace, accuracy, mean_cost, oracle, right, tested)


# -- the paper's claims ----------------------------------------------------------------------------------------------


def claims(found: Replay) -> list[dict[str, Any]]:
    """Return the answers to the paper's claims, for the paper's calibration and for the sequential one.

    Each has `claim`, `answer` ("yes" or "no") and `numbers`, a sentence. A budget counts as won or lost where the 95%
    interval over inputs excludes zero; the answer is yes if something is won and nothing is lost.
    """
    inner = range(1, len(found.budgets) - 1)  # the first and the last budget leave no choice

    def beats(name: str, rival: str | None = None) -> dict[str, Any]:
        gains = [found.against(name, rival, q) if rival else found.against_exits(name, q) for q in inner]
        return _compared(f"{name}: beats {rival or 'every single exit'} at equal mean cost", gains)

    return [
        *(_keeps_the_budget(found, name) for name in (MARGINAL, SEQUENTIAL, CERTIFIED)),
        *(beats(name) for name in (SEQUENTIAL, MARGINAL)),
        *(beats(SEQUENTIAL, rival) for rival in RIVALS),
        *(beats(MARGINAL, MARGINAL_RIVALS[rival]) for rival in RIVALS),
        _deeper_is_worse(found.trace),
        beats(SEQUENTIAL, MARGINAL),  # not the paper's claim: what the calibration is worth
    ]


def _keeps_the_budget(found: Replay, name: str) -> dict[str, Any]:
    cost = found.mean_cost[found.names.index(name)]
    feasible = np.isfinite(cost).all(axis=1)
    over = cost[feasible] / found.budgets[feasible, None] - 1
    above, mean = over > 1e-12, over.mean(axis=1)  # less is rounding
    return {
        "claim": f"{name}: the mean cost never exceeds the budget",
        "answer": "no" if above.any() else "yes",
        "numbers": f"exceeded in {above.sum()} of {above.size} cases ({feasible.sum()} budgets, {cost.shape[1]} "
        f"splits), by {over.max():+.2%} of the budget at most; mean over the splits between {mean.min():+.1%} and "
        f"{mean.max():+.2%}",
    }


def _compared(claim: str, found: Sequence[Gain | None]) -> dict[str, Any]:
    gains = [gain for gain in found if gain is not None]
    won, lost = (sum(gain.sign == sign for gain in gains) for sign in (1, -1))
    means = [100 * gain.mean for gain in gains]
    return {
        "claim": claim,
        "answer": "yes" if won and not lost else "no",
        "numbers": f"better at {won} of {len(gains)} budgets, worse at {lost}, undecided at {len(gains) - won - lost}; "
        f"difference {min(means):+.2f} to {max(means):+.2f} points, {np.mean(means):+.2f} on average",
    }


def _deeper_is_worse(trace: ex.ExitTrace) -> dict[str, Any]:
    risk, right, last = trace.risk, trace.correct, trace.n_exits - 1
    gains = {}
    for exit_ in range(1, trace.n_exits):
        before = int(np.argmin(risk[:exit_]))
        gains[exit_] = Gain.of(right[:, before].astype(float) - right[:, exit_])
    worse = sum(gain.mean > 0 for gain in gains.values())
    surely = sum(gain.sign > 0 for gain in gains.values())
    best, lost = int(np.argmin(risk)), float((right.any(axis=1) & ~right[:, -1]).mean())
    return {
        "claim": "deeper exits are not always better",
        "answer": "yes" if surely else "no",
        "numbers": f"{worse} of {last} exits err more than one before them ({surely} beyond chance); the best is exit "
        f"{best} of 0 to {last} with {1 - risk[best]:.4f}, the last has {1 - risk[-1]:.4f}; {lost:.1%} of the inputs "
        "are right at an earlier exit and wrong at the last",
    }
