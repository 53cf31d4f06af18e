"""Comparing policies input by input, so that differences carry an interval for new inputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import exeunt as ex
from exeunt import baselines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SEQUENTIAL, MARGINAL = "EERO, sequential", "EERO, marginal (the paper)"
CERTIFIED = "EERO, delta = 0.05"
RIVALS = ("geometric", "Gaussian, σ = 0.5", "Gaussian, σ = 2")
MARGINAL_RIVALS = {name: f"{name}, marginal" for name in RIVALS}


def compared_presets() -> dict[str, Callable[..., ex.Policy]]:
    """Return the policies that Figures 2 and 3 compare, by their names in the legend, the reference first.

    Both EEROs have the same rates (`spend="exactly"`, as in the published tables) and differ only in calibration.
    """
    return {
        SEQUENTIAL: ex.eero,
        MARGINAL: partial(ex.eero, calibration="marginal"),
        "geometric": baselines.msdnet,
        "Gaussian, σ = 0.5": partial(baselines.predictive_exit, sigma=0.5),
        "Gaussian, σ = 2": partial(baselines.predictive_exit, sigma=2.0),
        "one common threshold": ex.common_threshold,
    }


def presets() -> dict[str, Callable[..., ex.Policy]]:
    """Return the policies of Figure 2, EERO with a certificate, and the rivals in the paper's calibration."""
    drawn = compared_presets()
    marginal = {MARGINAL_RIVALS[name]: partial(drawn[name], calibration="marginal") for name in RIVALS}
    return {**drawn, CERTIFIED: partial(ex.eero, delta=0.05), **marginal}


def exit_budgets(cost: ex.CostModel) -> list[float]:
    """Return the cost of each exit, and with few exits the middle between two as well."""
    steps = cost.cumulative
    if cost.n_exits > 16:
        return steps.tolist()
    return np.sort(np.concatenate([steps, (steps[1:] + steps[:-1]) / 2])).tolist()


@dataclass(frozen=True)
class Gain:
    """A mean difference in accuracy with its 95 % interval over inputs."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, difference: np.ndarray) -> Gain:
        """`difference` (n,): by how much one is right more often than the other, for each input."""
        half = 1.96 * float(difference.std(ddof=1)) / len(difference) ** 0.5
        mean = float(difference.mean())
        return cls(mean, mean - half, mean + half)

    @property
    def sign(self) -> int:
        """1 where the interval lies above zero, -1 where it lies below, else 0."""
        return int(self.low > 0) - int(self.high < 0)


@dataclass(frozen=True)
class Comparison:
    """p policies at q budgets over s splits of one trace of n inputs.

    `right` (p, q, n): how often the policy was right on the input, of the splits that tested it; NaN in an
    infeasible cell. Inputs that no split tested are left out of `rows`, the inputs that count.
    """

    frontier: ex.Frontier
    trace: ex.ExitTrace
    right: np.ndarray
    rows: np.ndarray

    def against(self, name: str, rival: str, q: int) -> Gain | None:
        """Return by how much `name` at budget q is more accurate than `rival` at the same mean spend.

        The rival is tossed between the two of its budgets whose spends lie around, which any user could do.
        None where a spend is unknown or not reached by the rival.
        """
        p, r = self.frontier.names.index(name), self.frontier.names.index(rival)
        spend = self.frontier.mean_cost.mean(axis=2)
        return self._gain(p, q, spend[r], self.right[r])

    def against_exits(self, name: str, q: int) -> Gain | None:
        """Return by how much `name` at budget q is more accurate than exits alone at the same mean spend.

        At the cost of an exit this is that exit; in between, inputs are tossed between its two neighbours.
        """
        p = self.frontier.names.index(name)
        return self._gain(p, q, self.trace.cost.cumulative, self.trace.correct.T)

    def against_exit(self, name: str, q: int, exit_: int) -> Gain:
        """Return by how much `name` at budget q is more accurate than answering everything at `exit_`."""
        p = self.frontier.names.index(name)
        return Gain.of((self.right[p, q] - self.trace.correct[:, exit_])[self.rows])

    def _gain(self, p: int, q: int, spend: np.ndarray, right: np.ndarray) -> Gain | None:
        mine = float(self.frontier.mean_cost[p, q].mean())
        if not np.isfinite(mine) or not np.isfinite(spend).all():
            return None
        order = np.argsort(spend, kind="stable")
        steps = spend[order]
        if not steps[0] * (1 - 1e-9) <= mine <= steps[-1] * (1 + 1e-9):
            return None
        high = int(np.clip(np.searchsorted(steps, mine), 1, len(steps) - 1))
        gap = steps[high] - steps[high - 1]
        share = min(max((mine - steps[high - 1]) / gap, 0.0), 1.0) if gap > 0 else 0.0
        mixed = (1 - share) * right[order[high - 1]] + share * right[order[high]]
        return Gain.of((self.right[p, q] - mixed)[self.rows])

    def drawn(self) -> ex.Frontier:
        """Return the policies that figures show."""
        hidden = {CERTIFIED, *MARGINAL_RIVALS.values()}
        return self.only([name for name in self.frontier.names if name not in hidden])

    def only(self, names: Sequence[str]) -> ex.Frontier:
        """Return these policies."""
        f = self.frontier
        keep = [f.names.index(name) for name in names]
        return ex.Frontier(tuple(names), f.budgets, f.cost, f.accuracy[keep], f.mean_cost[keep], f.oracle)


def compare(
    trace: ex.ExitTrace,
    budgets: Sequence[float],
    *,
    shares: Mapping[str, float],
    splits: int,
    policies: Mapping[str, Callable[..., ex.Policy]] | None = None,
) -> Comparison:
    """Fit, calibrate and test every policy at every budget on seeded splits 0 to `splits` - 1."""
    chosen = presets() if policies is None else policies
    names = tuple(chosen)
    shape = (len(names), len(budgets))
    right, tested = np.zeros((*shape, trace.n)), np.zeros(trace.n)
    accuracy, spend = np.full((2, *shape, splits), np.nan)
    best = np.empty((len(budgets), splits))
    for s in range(splits):
        parts = trace.split(**shares, seed=s)
        # Inputs with equal keys are always in one part, so keys tell which rows were drawn.
        rows = np.flatnonzero(np.isin(trace.id, parts[2].id))
        tested[rows] += 1
        for q, budget in enumerate(budgets):
            best[q, s] = ex.oracle(parts[2], budget).accuracy
            for p, name in enumerate(names):
                found = measured(chosen[name], parts, budget)
                if found is None:
                    right[p, q] = np.nan
                    continue
                result, answered = found
                accuracy[p, q, s], spend[p, q, s] = result.accuracy, result.cost
                right[p, q, rows] += answered == parts[2].label
        print(f"compared on split {s + 1} of {splits}", flush=True)
    table = ex.Frontier(names, np.array(budgets), trace.cost, accuracy, spend, best)
    return Comparison(table, trace, right / np.maximum(tested, 1), np.flatnonzero(tested))


def measured(
    preset: Callable[..., ex.Policy], parts: Any, budget: float
) -> tuple[ex.Result, np.ndarray] | None:
    """Return what a policy comes to on the test part, and its answers; None where the budget cannot be guaranteed."""
    try:
        policy = preset(parts[0], parts[1], budget=budget)
    except ex.InfeasibleBudget:
        return None
    return ex.evaluate(policy, parts[2]), policy.answers(parts[2])
