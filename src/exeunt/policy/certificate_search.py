"""The search for a certificate: how much of the budget may be planned, so that the mean cost stays within it.

Calibration fixes counts on N inputs. The mean cost of future inputs then varies, by an exact distribution
(`exeunt.costs.mean_cost.MeanCostDistribution`). So a little less than the budget is planned: without `delta` so much
that the expected mean cost is within the budget, with `delta` so much that the mean cost is within it with probability
1 - delta (`plan_cost`).

Where inputs differ in what they cost, the mean cost does not follow from shares: inputs that leave late may be more
expensive than others. Then the fit inputs give the thresholds of many plans, and calibration inputs choose one of them
by what they cost under it (`plan_by_cost`). Labels are not needed. Where inputs come in groups, groups choose it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from exeunt._support.arrays import Floats, Integers
from exeunt._support.text import counted
from exeunt.costs.budget_text import amount_text
from exeunt.costs.cost_model import CostModel
from exeunt.costs.mean_cost import MeanCostDistribution
from exeunt.errors import InfeasibleBudget, InputError
from exeunt.guarantees.p_values import betting
from exeunt.policy.calibration import (
    RankedInMemory,
    Thresholds,
    checked_rates,
    exits_under,
    last_exit,
    planned_counts,
    sequential_thresholds,
)
from exeunt.policy.certificates import Certificate
from exeunt.policy.watched_cells import cells_of_first_exit
from exeunt.trace.groups import Groups, counts_of, mean, mean_weight, n_units, per_unit
from exeunt.trace.splitting import random_order

_Plan = TypeVar("_Plan")

SMALLEST_DELTA = 1e-9  # below it 1 - delta has too few digits left to compare with

_WIDE, _NEAR = 129, 64
"""How many plans lie between the lowest and the full cost, and near the budget, where inputs differ in cost."""
_MORE_GROUPS = 20_000
"""Up to so many more groups are tried where those there are certify nothing."""
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


class Costed(NamedTuple):
    """Inputs with scores (n, m), ties (n,), cumulative costs (n, m), and groups if they come in groups."""

    scores: Floats
    ties: Floats
    costs: Floats
    groups: Groups | None = None

    @property
    def n_units(self) -> int:
        """Number of groups, or of inputs without groups."""
        return n_units(len(self.ties), self.groups)

    def paid(self, limits: Thresholds) -> Floats:
        """Return what each input costs under these thresholds, (n,)."""
        return np.asarray(self.costs[np.arange(len(self.ties)), exits_under(self.scores, self.ties, limits)])


def plan_by_cost(
    allocate: Callable[[float], Floats],
    cost: CostModel,
    budget: float,
    fit: Costed,
    calibrate: Costed,
    delta: float | None,
    seed: int,
) -> dict[str, Any]:
    """Return the fields of a policy, planned by what calibration inputs cost.

    The fit inputs give the thresholds of plans from the cheapest up; calibration inputs choose one of them, see
    `most_expensive_plan`. Raises as that does.
    """
    plans = _plans(allocate, cost, budget, fit, calibrate.n_units)
    (rates, limits), fields = most_expensive_plan(
        ((plan, calibrate.paid(plan[1])) for plan in plans),
        with_highest(cost, fit.costs, calibrate.costs, delta),
        budget,
        len(calibrate.ties),
        calibrate.groups,
        delta,
        seed,
    )
    ranked = RankedInMemory(calibrate.scores, calibrate.ties)
    counts = ranked.counts(limits)
    watched = cells_of_first_exit(ranked, limits, calibrate.groups, seed)
    return {"rates": rates, "limits": limits, "counts": counts, "watched": watched, **fields}


def most_expensive_plan(
    plans: Iterable[tuple[_Plan, Floats]],
    cost: CostModel,
    budget: float,
    n: int,
    groups: Groups | None,
    delta: float | None,
    seed: int,
) -> tuple[_Plan, dict[str, Any]]:
    """Return the most expensive of several plans that keeps the budget, and what a policy says of its cost.

    `cost`: with the highest that is known, see `with_highest`.
    `plans`: from the cheapest up, each with what it costs n calibration inputs (n,). Without `delta` it is the last one
    under which the mean cost is within the budget even with one more input of the highest cost, where an input's cost
    counts as the highest of those under this plan and all cheaper ones (conformal risk control: Angelopoulos et al.
    2024). Then the expected cost is within the budget, if the highest is known, and a refused calibration counts as no
    cost. With `delta`, betting tests at this level go up the plans; the first that fails ends them (a fixed sequence,
    so no correction is needed). Where inputs come in groups, `per_unit` gives a cost to each group, and these are
    tested.

    Raises InfeasibleBudget if no plan passes.
    """
    highest, n_tested = cost.highest, n_units(n, groups)
    order, unit = random_order(n_tested, seed), "input" if groups is None else "group"
    chosen: tuple[_Plan, Floats] | None = None
    dearest = np.zeros(n_tested)

    def passes(tested: Floats) -> bool:
        if delta is None:
            return bool((tested.sum() + highest) / (len(tested) + 1) <= budget * (1 + 1e-12))
        return betting(np.minimum(tested / highest, 1.0), budget / highest, delta=delta) <= delta

    for plan, paid in plans:
        tested = per_unit(paid, groups, budget)
        dearest = np.maximum(dearest, tested)
        tested = dearest if delta is None else tested[order]
        if not passes(tested):
            break
        chosen = plan, paid
    if chosen is None:
        remedy = "give more calibration inputs or a higher budget"
        if groups is not None:
            sizes = np.unique(np.geomspace(n_tested + 1, n_tested + _MORE_GROUPS, 50).astype(int)).tolist()
            enough = next((size for size in sizes if passes(np.resize(tested, size))), None)
            remedy = f"about {enough:,} groups like these would do" if enough else "ask for a higher budget"
        raise InfeasibleBudget(f"{_nothing_passes(cost, budget, n_tested, delta, unit)}: {remedy}")
    plan, paid = chosen
    expected = float(mean(paid, groups))
    fields: dict[str, Any] = {"calibration_cost": expected, "calibration": f"cost-per-{unit}"}
    if delta is None:
        return plan, fields
    known = ", and that nothing else was fitted on them"
    if cost.varies:
        known = (
            f", that nothing else was fitted on them, and that no input costs more than {cost.show(highest)}"
        )
    certificate = Certificate(
        budget=budget,
        delta=delta,
        unit=cost.unit,
        probability=1 - delta,
        expected_cost=expected,
        cost_quantile=budget,
        n_calibration=n,
        assumption=f"future {unit}s are exchangeable with these{known}",
        **counts_of(groups),
    )
    return plan, {**fields, "certificate": certificate}


def _nothing_passes(cost: CostModel, budget: float, n_tested: int, delta: float | None, unit: str) -> str:
    """Say that no plan keeps the budget, not even that of answering everything at the first exit."""
    level = "in expectation" if delta is None else f"at delta={delta:g}"
    claim = f"that a mean cost of {cost.show(budget)} is kept"
    cheapest = (
        f"if everything is answered at the first exit ({cost.show(cost.first)} on average; an input can cost "
        f"{cost.show(cost.highest)})"
    )
    if unit == "input":
        return f"{counted(n_tested, 'calibration input')} cannot show {claim} {level}, not even {cheapest}"
    certify = counted(n_tested, "calibration group certifies", "calibration groups certify")
    return f"{certify} nothing {level}, not even {claim} {cheapest}"


def _plans(
    allocate: Callable[[float], Floats], cost: CostModel, budget: float, fit: Costed, n: int
) -> Iterator[tuple[Floats, Thresholds]]:
    """Yield rates (m,) and the thresholds that release them on the fit inputs, from the cheapest up.

    Between the cheapest exit and the full cost, and closer together near the budget.
    """

    def plan(amount: float) -> tuple[Floats, Thresholds]:
        rates = checked_rates(allocate(amount), fit.scores.shape[1])
        ranked, counts = RankedInMemory(fit.scores, fit.ties), planned_counts(rates, len(fit.ties))
        return rates, sequential_thresholds(ranked, counts, last_exit(rates))

    def tested(amount: float) -> Floats:
        return per_unit(fit.paid(plan(amount)[1]), fit.groups, budget)

    amounts = np.linspace(cost.first, cost.full, _WIDE)
    place = bisect_left(amounts.tolist(), budget, key=lambda amount: tested(amount).mean())
    middle = float(amounts[min(place, _WIDE - 1)])
    error = float(tested(middle).std()) * (1 / n + 1 / fit.n_units) ** 0.5 / mean_weight(fit.groups)
    near = middle + error * np.linspace(*_DEVIATIONS, _NEAR)
    for amount in np.unique(np.r_[amounts, near[(near > cost.first) & (near < cost.full)]]).tolist():
        yield plan(amount)


def with_highest(cost: CostModel, fit: Floats, calibrate: Floats, delta: float | None) -> CostModel:
    """Return the costs with the most that an input can cost: without `delta` that of these inputs, if it is not known.

    `fit`, `calibrate`: the costs of their inputs, (n, m) each. Raises InputError for a `delta` where it is not known,
    or where a calibration input costs more.
    """
    highest = float(calibrate.max())
    if delta is None:
        return cost if np.isfinite(cost.highest) else cost.bounded(max(highest, float(fit.max())))
    if not np.isfinite(cost.highest):
        raise InputError(
            "inputs differ in what they cost, and a mean cost can only be certified if the most that any input can "
            "cost is known: give it (highest=..., --highest MODEL=AMOUNT), or leave out delta (--delta none)"
        )
    if highest > cost.highest:
        raise InputError(f"a calibration input costs {cost.show(highest)}, more than the highest cost given")
    return cost
