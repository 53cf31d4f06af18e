"""How much of the budget may be planned, so that what is spent stays within it.

Calibration fixes counts on N inputs; the spend on future inputs then varies by the exact distribution
(`exeunt.MeanCostDistribution`). So a little less than the budget is planned: without `delta` so much that the expected
spend is within the budget, with `delta` so much that the spend is within it with probability 1 - delta.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from exeunt._arrays import Floats, Integers
from exeunt._text import counted
from exeunt.budget_text import amount_text
from exeunt.calibration import checked_rates, last_exit, planned_counts
from exeunt.costs import CostModel
from exeunt.errors import InfeasibleBudget, InputError
from exeunt.mean_cost.distribution import MeanCostDistribution

__all__ = ["SMALLEST_DELTA", "Certificate", "CostPlan", "certify", "plan_cost", "reachable_distribution"]

SMALLEST_DELTA = 1e-9  # below it 1 - delta has too few digits left to compare with

_ASSUMPTION = (
    "calibration and future inputs are exchangeable, and nothing else was fitted on the calibration inputs"
)


@dataclass(frozen=True)
class CostPlan:
    """Rates (m,), the counts (m,) of N calibration inputs that result from them, and the last exit in use."""

    rates: Floats
    counts: Integers
    last: int


@dataclass(frozen=True)
class Certificate:
    """The guarantee P(mean cost per input <= budget) >= 1 - delta, over calibration and future inputs.

    The mean cost is that of the policy in the long run, given its thresholds; `MeanCostDistribution.batch_quantile` says
    how much a batch of given size can stray from it. `probability` is P itself, `cost_quantile` the
    (1 - delta) quantile of the mean cost.
    """

    budget: float
    delta: float
    unit: str
    probability: float
    expected_cost: float
    cost_quantile: float
    n_calibration: int
    assumption: str = _ASSUMPTION

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return dict(self.__dict__)

    def __str__(self) -> str:
        sure = f"{1 - self.delta:g}" if self.delta >= 1e-5 else f"1 - {self.delta:g}"
        budget, expected, quantile = (
            amount_text(amount, self.unit) for amount in (self.budget, self.expected_cost, self.cost_quantile)
        )
        return (
            f"P(mean cost <= {budget}) >= {sure}: expected {expected}, {sure} quantile {quantile}, from "
            f"{counted(self.n_calibration, 'calibration input')}, if {self.assumption}"
        )


def plan_cost(
    allocate: Callable[[float], Floats], cost: CostModel, budget: float, n: int, delta: float | None
) -> CostPlan:
    """Return the largest plan on n calibration inputs that keeps its guarantee under `budget`.

    `allocate` maps a budget to rates (m,). Raises InfeasibleBudget where `delta` cannot be certified.
    """
    plan = _plan(allocate(budget), cost, n)
    if plan.last == 0:
        return plan  # everything answers at the first exit: the spend is certain
    if delta is None:
        # E[K] = (N * planned + costliest) / (N + 1) <= budget.
        planned = budget - (float(cost.cumulative[plan.last]) - budget) / n
        if planned < cost.first:  # no threshold on n inputs is that sure: answer everything at the first exit
            return _plan(_first_exit_only(cost), cost, n)
        return _within(_plan(allocate(planned), cost, n, plan.last), cost, budget)
    _check_certifiable(cost, budget, n, delta, plan.last)

    def keeps_guarantee(candidate: CostPlan) -> bool:
        return reachable_distribution(candidate, cost).probability_within(budget) >= 1 - delta

    if keeps_guarantee(plan):
        return plan
    low, high = cost.first, budget
    best, worst = _plan(_first_exit_only(cost), cost, n, plan.last), plan
    # Until the plans differ by one input at one exit, or the budgets by less than a float resolves.
    while np.abs(np.cumsum(worst.counts - best.counts)).sum() > 1 and high - low > 1e-9 * cost.full:
        middle = (low + high) / 2
        candidate = _plan(allocate(middle), cost, n, plan.last)
        if keeps_guarantee(candidate):
            best, low = candidate, middle
        else:
            worst, high = candidate, middle
    return best


def _within(plan: CostPlan, cost: CostModel, budget: float) -> CostPlan:
    """Return the plan if its expected spend is within the budget; an allocation that overspends is refused."""
    expected = reachable_distribution(plan, cost).mean
    if expected > budget * (1 + 1e-9):
        raise InputError(
            f"the allocation's rates {plan.rates} are expected to cost {cost.show(expected)}, more than the budget "
            f"of {cost.show(budget)}: for each budget return rates whose mean cost is at most that"
        )
    return plan


def reachable_distribution(plan: CostPlan, cost: CostModel) -> MeanCostDistribution:
    """Return the distribution of the mean cost over the exits in use: the last of them answers whatever reaches it."""
    used = plan.last + 1
    return MeanCostDistribution(plan.counts[:used], cost.cumulative[:used])


def certify(plan: CostPlan, cost: CostModel, budget: float, delta: float) -> Certificate:
    """Return the certificate that a plan carries."""
    distribution = reachable_distribution(plan, cost)
    return Certificate(
        budget=budget,
        delta=delta,
        unit=cost.unit,
        probability=distribution.probability_within(budget),
        expected_cost=distribution.mean,
        cost_quantile=distribution.quantile(1 - delta),
        n_calibration=int(plan.counts.sum()),
    )


def _plan(allocated: Floats, cost: CostModel, n: int, last: int = 0) -> CostPlan:
    """Return the plan of these rates, with the exits up to `last` still in use."""
    rates = checked_rates(allocated, cost.n_exits)
    return CostPlan(rates, planned_counts(rates, n), max(last, last_exit(rates)))


def _first_exit_only(cost: CostModel) -> Floats:
    rates = np.zeros(cost.n_exits)
    rates[0] = 1.0
    return rates


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
