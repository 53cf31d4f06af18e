"""Planning where inputs differ in what they cost: the mean cost does not follow from shares, so it is measured.

Those who leave late may be those that cost much. So a plan is judged by what the calibration inputs cost under it, and
certified by a betting test on calibration inputs that had no part in its thresholds. Labels are not needed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import numpy as np

from exeunt._arrays import Floats, Integers, Keys
from exeunt._text import counted
from exeunt.calibration import (
    Thresholds,
    checked_rates,
    exits_under,
    last_exit,
    planned_counts,
    sequential_thresholds,
)
from exeunt.costs import CostModel
from exeunt.errors import InfeasibleBudget, InputError
from exeunt.p_values import betting
from exeunt.policy.cost_certificate import Certificate
from exeunt.trace.splitting import shaping_and_testing_rows

__all__ = ["plan_by_cost"]

_BELOW, _NEAR = 8, 96
"""How many plans are tested far below the budget, and near it."""
_DEVIATIONS = (-5.0, 2.0)
"""What is near the budget, in standard errors of a mean cost."""


class _Plans:
    """Plans for amounts that are planned, all with thresholds from the same calibration inputs."""

    def __init__(
        self, allocate: Callable[[float], Floats], cost: CostModel, scores: Floats, ties: Floats
    ) -> None:
        self._allocate, self._cost, self._scores, self._ties = allocate, cost, scores, ties

    def at(self, amount: float) -> tuple[Floats, Thresholds]:
        """Return rates (m,), and the thresholds that release them from the calibration inputs."""
        rates = checked_rates(self._allocate(amount), self._cost.n_exits)
        counts = planned_counts(rates, len(self._scores))
        return rates, sequential_thresholds(self._scores, self._ties, counts, last_exit(rates))

    def reaching(self, mean: float, spent: Floats) -> float:
        """Return the amount to plan so that these inputs, of costs `spent` (n, m), cost `mean` on average."""
        amounts = np.linspace(self._cost.first, self._cost.full, 1025).tolist()
        at = bisect_left(amounts, mean, key=lambda amount: self.costs(amount, spent).mean())
        return float(amounts[max(at - 1, 0)])

    def costs(self, amount: float, spent: Floats) -> Floats:
        """Return what the calibration inputs cost each, (n,), under the plan for an amount."""
        return _costs(self.at(amount)[1], self._scores, self._ties, spent)


def plan_by_cost(
    allocate: Callable[[float], Floats],
    cost: CostModel,
    budget: float,
    calibrate: tuple[Floats, Floats, Keys, CostModel],
    delta: float | None,
    seed: int,
) -> dict[str, Any]:
    """Return the fields of a policy, planned by what calibration inputs cost.

    `calibrate`: their scores (n, m), ties (n,), keys (n,) and costs. Without `delta` all give the thresholds, of the
    most expensive plan under which they cost no more than the budget on average, one more of the highest cost
    included. With it a random third of them gives thresholds, and the others test plans by betting at level delta,
    from the cheapest up; the first that fails ends it (a fixed sequence, so no correction is due).

    Raises InfeasibleBudget if no plan passes, InputError for a `delta` where the highest cost is not known.
    """
    scores, ties, id_, model = calibrate
    spent = model.of_inputs(len(scores))
    if delta is None:
        plans = _Plans(allocate, cost, scores, ties)
        n = len(scores)
        return _fields(
            plans.at(plans.reaching((budget * (n + 1) - float(spent.max())) / n, spent)), scores, ties, spent
        )
    _check_highest(cost, model, spent)
    shaped, tested = shaping_and_testing_rows(id_, 1 / 3, seed)
    plans = _Plans(allocate, cost, scores[shaped], ties[shaped])
    passed: tuple[tuple[Floats, Thresholds], Floats, float] | None = None
    for amount in _sequence(plans, cost, budget, spent[shaped], len(tested)):
        plan = plans.at(amount)
        paid = _costs(plan[1], scores[tested], ties[tested], spent[tested])
        p = betting(paid / cost.highest, budget / cost.highest, delta=delta)
        if p > delta:
            break
        passed = plan, paid, p
    if passed is None:
        raise _infeasible(cost, budget, delta, len(tested))
    plan, paid, p = passed
    certificate = Certificate(
        budget=budget, delta=delta, unit=cost.unit, probability=1 - p, expected_cost=float(paid.mean()),
        cost_quantile=_upper_bound(paid, cost.highest, budget, delta), n_calibration=len(tested),
        assumption=(
            "calibration and future inputs are exchangeable, nothing else was fitted on the calibration inputs, and no "
            f"input costs more than {cost.show(cost.highest)}"
        ),
    )  # fmt: skip
    return {**_fields(plan, scores, ties, spent), "certificate": certificate}


def _sequence(plans: _Plans, cost: CostModel, budget: float, spent: Floats, n_tested: int) -> Floats:
    """Return the amounts to plan that are tested, from the cheapest up: few far below the budget, many near it."""
    near = plans.reaching(budget, spent)
    error = float(plans.costs(near, spent).std()) * (1 / n_tested + 1 / len(spent)) ** 0.5
    low, high = (plans.reaching(budget + by * error, spent) for by in _DEVIATIONS)
    return np.unique(np.r_[np.linspace(cost.first, low, _BELOW), np.linspace(low, high, _NEAR)])


def _costs(limits: Thresholds, scores: Floats, ties: Floats, spent: Floats) -> Floats:
    return np.asarray(spent[np.arange(len(scores)), exits_under(scores, ties, limits)])


def _fields(plan: tuple[Floats, Thresholds], scores: Floats, ties: Floats, spent: Floats) -> dict[str, Any]:
    rates, limits = plan
    exits = exits_under(scores, ties, limits)
    counts: Integers = np.bincount(exits, minlength=len(rates))
    mean = float(spent[np.arange(len(scores)), exits].mean())
    return {
        "rates": rates,
        "limits": limits,
        "counts": counts,
        "calibration_cost": mean,
        "calibration": "cost-per-input",
    }


def _upper_bound(paid: Floats, highest: float, budget: float, delta: float) -> float:
    """Return the least mean cost, in 256 steps up to the budget, that the test shows not to be exceeded."""
    steps = np.linspace(float(paid.mean()), budget, 257).tolist()
    at = bisect_left(
        steps, True, key=lambda step: betting(paid / highest, step / highest, delta=delta) <= delta
    )
    return float(steps[min(at, len(steps) - 1)])


def _check_highest(cost: CostModel, model: CostModel, spent: Floats) -> None:
    if not np.isfinite(cost.highest):
        raise InputError(
            "inputs differ in what they cost, and a mean cost can only be certified if the most that any input can "
            "cost is known: give the costs with highest=..., or leave out delta"
        )
    if float(spent.max()) > cost.highest:
        raise InputError(
            f"a calibration input costs {model.show(float(spent.max()))}, more than the highest cost given"
        )


def _infeasible(cost: CostModel, budget: float, delta: float, n: int) -> InfeasibleBudget:
    return InfeasibleBudget(
        f"{counted(n, 'calibration input')} cannot show that a mean cost of {cost.show(budget)} is kept at "
        f"delta={delta:g}, not even if everything is answered at the first exit "
        f"({cost.show(cost.first)} on average; an input can cost {cost.show(cost.highest)}): "
        "give more calibration inputs or a higher budget"
    )
