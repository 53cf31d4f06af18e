"""The search for a certificate: how much of the budget may be planned, so that the mean cost stays within it.

Calibration fixes counts on N inputs. The mean cost of future inputs then varies, by an exact distribution
(`exeunt.mean_cost.MeanCostDistribution`). So a little less than the budget is planned: without `delta` so much that
the expected mean cost is within the budget, with `delta` so much that the mean cost is within it with probability
1 - delta (`plan_cost`).

Where inputs differ in what they cost, the mean cost does not follow from shares: inputs that leave late may be more
expensive than others. Then a plan is judged by what the calibration inputs cost under it, and certified by a betting
test on calibration inputs that had no part in its thresholds (`plan_by_cost`). Labels are not needed.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from exeunt._arrays import Floats, Integers, Keys
from exeunt._text import counted
from exeunt.budget_text import amount_text
from exeunt.calibration import (
    RankedInMemory,
    Thresholds,
    checked_rates,
    exits_under,
    last_exit,
    planned_counts,
    sequential_thresholds,
)
from exeunt.costs import CostModel
from exeunt.errors import InfeasibleBudget, InputError
from exeunt.mean_cost import MeanCostDistribution
from exeunt.p_values import betting
from exeunt.policy.certificates import Certificate
from exeunt.trace.splitting import shaping_and_testing_rows

SMALLEST_DELTA = 1e-9  # below it 1 - delta has too few digits left to compare with

_BELOW, _NEAR = 8, 96
"""How many plans are tested far below the budget, and near it, where inputs differ in what they cost."""
_DEVIATIONS = (-5.0, 2.0)
"""What is near the budget, in standard errors of a mean cost."""


@dataclass(frozen=True)
class CostPlan:
    """Rates (m,), the counts (m,) of N calibration inputs that result from them, and the last exit in use."""

    rates: Floats
    counts: Integers
    last: int

    def distribution(self, cost: CostModel) -> MeanCostDistribution:
        """Return the distribution of the mean cost over the exits in use, the last of which answers what reaches it."""
        used = self.last + 1
        return MeanCostDistribution(self.counts[:used], cost.cumulative[:used])

    def certificate(self, cost: CostModel, budget: float, delta: float) -> Certificate:
        """Return the certificate of this plan."""
        distribution = self.distribution(cost)
        return Certificate(
            budget=budget,
            delta=delta,
            unit=cost.unit,
            probability=distribution.probability_within(budget),
            expected_cost=distribution.mean,
            cost_quantile=distribution.quantile(1 - delta),
            n_calibration=int(self.counts.sum()),
        )


def plan_cost(
    allocate: Callable[[float], Floats], cost: CostModel, budget: float, n: int, delta: float | None
) -> CostPlan:
    """Return the largest plan on n calibration inputs that keeps its guarantee under `budget`.

    `allocate` maps a budget to rates (m,). Raises InfeasibleBudget where `delta` cannot be certified.
    """
    plan = _plan(allocate(budget), cost, n)
    if plan.last == 0:
        return plan  # everything answers at the first exit: the cost is certain
    at_first_exit = np.eye(cost.n_exits)[0]
    if delta is None:
        # E[K] = (N * planned + costliest) / (N + 1) <= budget.
        planned = budget - (float(cost.cumulative[plan.last]) - budget) / n
        if planned < cost.first:  # no threshold on n inputs is that sure: answer everything at the first exit
            return _plan(at_first_exit, cost, n)
        plan = _plan(allocate(planned), cost, n, plan.last)
        if (expected := plan.distribution(cost).mean) > budget * (1 + 1e-9):
            raise InputError(
                f"the allocation's rates {plan.rates} are expected to cost {cost.show(expected)}, more than the budget "
                f"of {cost.show(budget)}: for each budget return rates whose mean cost is at most that"
            )
        return plan
    _check_certifiable(cost, budget, n, delta, plan.last)

    def keeps_guarantee(candidate: CostPlan) -> bool:
        return candidate.distribution(cost).probability_within(budget) >= 1 - delta

    if keeps_guarantee(plan):
        return plan
    low, high = cost.first, budget
    best, worst = _plan(at_first_exit, cost, n, plan.last), plan
    # Until the plans differ by one input at one exit, or the budgets by less than a float resolves.
    while np.abs(np.cumsum(worst.counts - best.counts)).sum() > 1 and high - low > 1e-9 * cost.full:
        middle = (low + high) / 2
        candidate = _plan(allocate(middle), cost, n, plan.last)
        if keeps_guarantee(candidate):
            best, low = candidate, middle
        else:
            worst, high = candidate, middle
    return best


def _plan(allocated: Floats, cost: CostModel, n: int, last: int = 0) -> CostPlan:
    """Return the plan of these rates, with the exits up to `last` still in use."""
    rates = checked_rates(allocated, cost.n_exits)
    return CostPlan(rates, planned_counts(rates, n), max(last, last_exit(rates)))


def _check_certifiable(cost: CostModel, budget: float, n: int, delta: float, last: int) -> None:
    """Raise InfeasibleBudget unless the most careful plan, everything at the first exit, can be certified.

    Its threshold is the lowest calibration score, so a share p ~ Beta(1, n) runs on to the last exit and
    P(K <= B) = 1 - (1 - x)^n with x = (B - b_first) / (b_last - b_first).
    """
    span = float(cost.cumulative[last]) - cost.first
    room = (budget - cost.first) / span
    if room >= 1 or n * math.log1p(-room) <= math.log(delta):
        return
    # A larger budget may open costlier exits, so the number named holds for all of them; rounded up.
    widest = cost.full - cost.first
    smallest = cost.first - widest * math.expm1(math.log(delta) / n) * (1 + 1e-9)
    needed = math.ceil(math.log(delta) / math.log1p(-room)) if room > 0 else None
    remedy = f", or {counted(needed, 'calibration input')} for this budget" if needed is not None else ""
    raise InfeasibleBudget(
        f"{counted(n, 'calibration input')} cannot certify a budget of {cost.show(budget)} at delta={delta:g}: "
        f"with them the smallest budget (above answering everything at the first exit, {cost.show(cost.first)}) is "
        f"{amount_text(smallest, cost.unit, digits=6)}{remedy}",
        smallest_budget=smallest,
        n_calibration_needed=needed,
    )


class _MeasuredPlans:
    """Plans whose thresholds and costs come from the same calibration inputs: scores and costs (n, m), ties (n,)."""

    def __init__(
        self, allocate: Callable[[float], Floats], scores: Floats, ties: Floats, costs: Floats
    ) -> None:
        self.allocate, self.scores, self.ties, self.costs = allocate, scores, ties, costs

    def at(self, amount: float) -> tuple[Floats, Thresholds]:
        """Return rates (m,) that are planned for an amount, and the thresholds that release them."""
        rates = checked_rates(self.allocate(amount), self.scores.shape[1])
        ranked, counts = RankedInMemory(self.scores, self.ties), planned_counts(rates, len(self.scores))
        return rates, sequential_thresholds(ranked, counts, last_exit(rates))

    def paid(self, limits: Thresholds) -> Floats:
        """Return what each input costs under these thresholds, (n,)."""
        return np.asarray(self.costs[np.arange(len(self.ties)), exits_under(self.scores, self.ties, limits)])

    def reaching(self, mean: float, cost: CostModel) -> float:
        """Return the amount to plan so that these inputs cost `mean` on average."""
        amounts = np.linspace(cost.first, cost.full, 1025).tolist()
        at = bisect_left(amounts, mean, key=lambda amount: self.paid(self.at(amount)[1]).mean())
        return float(amounts[max(at - 1, 0)])

    def fields(self, rates: Floats, limits: Thresholds) -> dict[str, Any]:
        """Return the fields of a policy with this plan."""
        counts = np.bincount(exits_under(self.scores, self.ties, limits), minlength=len(rates))
        mean = float(self.paid(limits).mean())
        return {
            "rates": rates,
            "limits": limits,
            "counts": counts,
            "calibration_cost": mean,
            "calibration": "cost-per-input",
        }


def plan_by_cost(
    allocate: Callable[[float], Floats],
    cost: CostModel,
    budget: float,
    calibrate: tuple[Floats, Floats, Keys, CostModel],
    delta: float | None,
    seed: int,
) -> dict[str, Any]:
    """Return the fields of a policy, planned by what calibration inputs cost.

    `calibrate`: their scores (n, m), ties (n,), keys (n,) and costs. Without `delta` all of them give the thresholds,
    of the most expensive plan under which their mean cost is within the budget, even with one more input of the highest
    cost. With `delta` a random third of them gives thresholds. The others test plans by betting at level
    delta, from the cheapest up; the first that fails ends the test (a fixed sequence, so no correction is needed).

    Raises InfeasibleBudget if no plan passes, InputError for a `delta` where the highest cost is not known.
    """
    scores, ties, id_, model = calibrate
    n, costs = len(scores), model.of_inputs(len(scores))
    everything = _MeasuredPlans(allocate, scores, ties, costs)
    if delta is None:
        affordable = (budget * (n + 1) - float(costs.max())) / n
        return everything.fields(*everything.at(everything.reaching(affordable, cost)))
    _check_highest(cost, model, costs)
    shaping, tested = (
        _MeasuredPlans(allocate, scores[rows], ties[rows], costs[rows])
        for rows in shaping_and_testing_rows(id_, 1 / 3, seed)
    )
    passed: tuple[tuple[Floats, Thresholds], Floats, float] | None = None
    for amount in _sequence(shaping, cost, budget, len(tested.ties)):
        plan = shaping.at(amount)
        paid = tested.paid(plan[1])
        p = betting(paid / cost.highest, budget / cost.highest, delta=delta)
        if p > delta:
            break
        passed = plan, paid, p
    if passed is None:
        raise InfeasibleBudget(
            f"{counted(len(tested.ties), 'calibration input')} cannot show that a mean cost of {cost.show(budget)} is "
            f"kept at delta={delta:g}, not even if everything is answered at the first exit "
            f"({cost.show(cost.first)} on average; an input can cost {cost.show(cost.highest)}): "
            "give more calibration inputs or a higher budget"
        )
    plan, paid, p = passed
    certificate = Certificate(
        budget=budget,
        delta=delta,
        unit=cost.unit,
        probability=1 - p,
        expected_cost=float(paid.mean()),
        cost_quantile=_upper_bound(paid, cost.highest, budget, delta),
        n_calibration=len(paid),
        assumption="future inputs are exchangeable with these, that nothing else was fitted on them, and that no "
        f"input costs more than {cost.show(cost.highest)}",
    )
    return {**everything.fields(*plan), "certificate": certificate}


def _sequence(plans: _MeasuredPlans, cost: CostModel, budget: float, n_tested: int) -> Floats:
    """Return the amounts to plan that are tested, from the cheapest up: few far below the budget, many near it."""
    paid = plans.paid(plans.at(plans.reaching(budget, cost))[1])
    error = float(paid.std()) * (1 / n_tested + 1 / len(paid)) ** 0.5
    low, high = (plans.reaching(budget + by * error, cost) for by in _DEVIATIONS)
    return np.unique(np.r_[np.linspace(cost.first, low, _BELOW), np.linspace(low, high, _NEAR)])


def _upper_bound(paid: Floats, highest: float, budget: float, delta: float) -> float:
    """Return the least mean cost, in 256 steps up to the budget, that the test shows not to be exceeded."""
    steps = np.linspace(float(paid.mean()), budget, 257).tolist()
    at = bisect_left(
        steps, True, key=lambda step: betting(paid / highest, step / highest, delta=delta) <= delta
    )
    return float(steps[min(at, len(steps) - 1)])


def _check_highest(cost: CostModel, model: CostModel, costs: Floats) -> None:
    if not np.isfinite(cost.highest):
        raise InputError(
            "inputs differ in what they cost, and a mean cost can only be certified if the most that any input can "
            "cost is known: give the costs with highest=..., or leave out delta"
        )
    if float(costs.max()) > cost.highest:
        raise InputError(
            f"a calibration input costs {model.show(float(costs.max()))}, more than the highest cost given"
        )
