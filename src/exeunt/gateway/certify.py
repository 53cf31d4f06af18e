"""The cheapest way to answer a gateway's requests that provably loses little against its reference.

Half of the records fit policies, and part of these chooses among the kinds of policies. The other half certifies the
one that was chosen, and measures what it is compared with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from exeunt._arrays import Floats, check_between
from exeunt._text import counted
from exeunt.costs import CostModel
from exeunt.errors import Infeasible, InfeasibleBudget
from exeunt.gateway.certification import Certification, measured, paid_for
from exeunt.policies.by_name import rule_for
from exeunt.policies.candidates import lost_by
from exeunt.policies.cheapest import cheapest
from exeunt.policy import Policy
from exeunt.policy.certificate_search import dearest_plan
from exeunt.trace import CascadeTrace
from exeunt.trace.groups import mean, n_units, per_unit
from exeunt.trace.splitting import part_rows, shaping_and_testing_rows

HELD_OUT = 0.5
"""The share of the records that certify."""
_PARTS = {"learn": 0.55, "shape": 0.15, "compare": 0.3}
"""Of the other records, where kinds of policies are compared."""
_SHAPING = 0.2
_BUDGETS = 10
_FEWEST = 150
"""Of fewer records a router cannot learn, and hardly any loss can be certified."""
_POINTS = 20
_POLICIES = _POINTS + _POINTS // 2
"""How many policies `cheapest` makes at most."""
_POWER = NormalDist().inv_cdf(0.8)
"""How many records it would take is said for a chance of 80%."""
_AT_LEAST = 1.25
"""Where so many times the records are said to be enough, fewer are not said to be: the estimate is not that good."""
_SAVES = 0.05
"""A policy that saves less of the reference's cost is not what anybody waits for."""

Progress = Callable[[int, int], object]


class _Parts(NamedTuple):
    """What policies learn from, what gives their thresholds, and what tells how good they are."""

    learn: CascadeTrace
    shape: CascadeTrace
    compare: CascadeTrace


class _Aim(NamedTuple):
    """What is to be certified."""

    reference: str
    max_loss: float
    delta: float
    seed: int


@dataclass(frozen=True)
class _Prospect:
    """What policies of a kind cost, lose, and need, by descending budget.

    `cost` (b,): the mean cost as a share of the reference's. `loss` (b,): the mean loss. `needed` (b,): about how many
    records, or groups of them, it takes to certify the policy and all before it.
    """

    cost: Floats
    loss: Floats
    needed: Floats

    def cheapest(self, n: int) -> float:
        """Return the cost of the cheapest policy that so many records can certify; infinite if there is none."""
        return float(np.min(self.cost[self.needed <= n], initial=math.inf))

    @property
    def fewest(self) -> float:
        """About how many records certify a policy that saves something; infinite if none loses little enough."""
        return float(np.min(self.needed[self.cost <= 1 - _SAVES], initial=math.inf))


def certify(
    records: CascadeTrace,
    reference: str,
    *,
    max_loss: float,
    budget: float | str | None = None,
    delta: float = 0.05,
    seed: int = 0,
    progress: Progress | None = None,
) -> Certification:
    """Return the cheapest policy whose mean grade is at most `max_loss` below the reference's, with its certificate.

    `records`: the models' traces (see `exeunt.gateway.recorded_trace`). `max_loss` in (0, 1). `budget`: the mean cost
    per request in US dollars, or a share such as "40%" of the reference's. It is certified, too, if the highest cost
    makes that possible; else the expected cost is within it. `delta`: the probability with which guarantees may be
    broken. `progress`: called with (policies made, at most).

    Raises Infeasible if nothing can be certified yet, with about how many more records that would take, and
    InfeasibleBudget for a budget that no model keeps.
    """
    check_between(max_loss, "max_loss", 0.0, 1.0)
    check_between(delta, "delta", 0.0, 1.0)
    aim = _Aim(reference, max_loss, delta, seed)
    if n_units(records.n, records.groups) < _FEWEST:
        raise _not_yet(records, aim, f"a certificate takes at least {_FEWEST} {_unit(records)}")
    shares = {"fit": 1 - HELD_OUT, "held-out": HELD_OUT}
    fit, held_out = _parts(_as_seen(records), shares, seed)
    allowed = None if budget is None else fit.answering.budget(budget, reference=reference)
    kinds = _kinds(fit)
    total, made = _BUDGETS * len(kinds) * (len(kinds) > 1) + _POLICIES, 0

    def done(now: int = 1, _: int = 0) -> None:
        if progress is not None:
            progress(made + now, total)

    kind, n = kinds[0], n_units(held_out.n, held_out.groups)
    if len(kinds) > 1:
        parts, prospects = _Parts(*_parts(fit, _PARTS, seed)), {}
        for one in kinds:
            prospects[one] = _prospect(one, parts, aim)
            made += _BUDGETS
            done(0)
        kind = min(kinds, key=lambda one: (prospects[one].cheapest(n), prospects[one].fewest))
    options: dict[str, Any] = {
        "max_loss": max_loss, "delta": delta, "policy": kind, "reference": reference, "seed": seed,
        "points": _POINTS, "progress": done,
    }  # fmt: skip
    try:
        policy = _certified(fit, held_out, allowed, options, records)
    except Infeasible as error:
        if error.binding == "budget":
            raise
        shaping, learning = shaping_and_testing_rows(fit.n, _SHAPING, seed, fit.groups, part="fit")
        found = _prospect(kind, _Parts(fit.take(learning), fit.take(shaping), held_out), aim)
        raise _not_yet(records, aim, _advice(found, records, aim)) from None
    at_highest = _parts(records, shares, seed)
    return measured(policy, at_highest[0], at_highest[1], reference, allowed)


def _certified(
    fit: CascadeTrace,
    held_out: CascadeTrace,
    allowed: float | None,
    options: dict[str, Any],
    records: CascadeTrace,
) -> Policy:
    """Return the cheapest policy that passes, and whose mean cost is at most `allowed`, certified if that is possible.

    With a budget, half of delta goes to the loss, and half to the costs of all policies that were tried, so that one of
    them could be chosen. `records`: with the most that a request can cost.
    """
    delta = options["delta"] if allowed is None else options["delta"] / 2
    policy = _at_highest(cheapest(fit, held_out, **{**options, "delta": delta}), records)
    if allowed is None:
        return policy
    paid = paid_for(policy, held_out)
    with suppress(InfeasibleBudget):
        _, fields = dearest_plan(
            [(policy, paid)],
            policy.cost,
            allowed,
            held_out.n,
            held_out.groups,
            delta / _POLICIES,
            options["seed"],
        )
        return replace(policy, budget=allowed, **fields)
    if (cost := policy.expected_cost) > allowed:
        raise Infeasible(
            f"the cheapest policy that provably loses at most {100 * options['max_loss']:.4g} points against "
            f"{options['reference']} costs {policy.cost.show(cost)} per request, more than the budget of "
            f"{policy.cost.show(allowed)}: give a higher budget, allow a larger loss, or wait for more records",
            binding="budget",
            nearest_budget=cost,
            nearest_max_loss=options["max_loss"],
        )
    return policy


def _as_seen(records: CascadeTrace) -> CascadeTrace:
    """Return the records as if no request could cost more than the dearest of them.

    What a request can cost at most may be a hundred times what any did cost, which an expected cost need not count
    with: one such request more would let no policy keep a budget.
    """
    seen = {}
    for name in records.names:
        cost = records[name].cost
        seen[name] = records[name].with_cost(
            cost.bounded(float(cost.of_inputs(records.n).max()) * (1 + 1e-9))
        )
    return CascadeTrace(seen)


def _at_highest(policy: Policy, records: CascadeTrace) -> Policy:
    """Return a policy that was made on records as they were seen with the most that a request can cost."""
    cost = policy.cost
    highest = records.along(policy.cascade).cost.highest
    made = CostModel(
        cost.cumulative, unit=cost.unit, source=cost.source, reference=cost.reference, highest=highest
    )
    return replace(policy, cost=made)


def _kinds(fit: CascadeTrace) -> list[str]:
    """Return the names of the kinds of policies that these records can tell apart."""
    tells = fit.answering is not fit
    scored = any(
        np.ptp(trace.scores[trace.default_score][np.isfinite(trace.scores[trace.default_score])]) > 0
        for trace in map(fit.answering.__getitem__, fit.answering.names)
    )
    return ["router"] * tells + ["cascade_router", "auto", "eero"] * scored or ["eero"]


def _parts(records: CascadeTrace, shares: dict[str, float], seed: int) -> list[CascadeTrace]:
    return [records.take(rows) for rows in part_rows(records.id, shares, seed, records.groups)]


def _prospect(kind: str, parts: _Parts, aim: _Aim) -> _Prospect:
    """Return what policies of a kind are worth, at budgets from the reference's cost down."""
    learn, shape, compare = parts
    reference, max_loss = aim.reference, aim.max_loss
    make = partial(rule_for(learn, kind), learn, shape, reference=reference, seed=aim.seed)
    full, first = learn[reference].cost.full, learn.answering.alone.cost.first
    z = NormalDist().inv_cdf(1 - aim.delta) + _POWER
    whole = mean(compare[reference].cost.of_inputs(compare.n)[:, 0], compare.groups)
    cost, loss, needed = [], [], []
    for amount in np.linspace(full, first, _BUDGETS, endpoint=False).tolist():
        try:
            policy = make(budget=amount)
        except InfeasibleBudget:
            continue
        lost = lost_by(policy, compare, reference)
        cost.append(mean(paid_for(policy, compare), compare.groups) / whole)
        loss.append(mean(lost, compare.groups))
        gap = max_loss - per_unit(lost, compare.groups, max_loss)
        needed.append((z * gap.std() / gap.mean()) ** 2 if gap.mean() > 0 else math.inf)
    return _Prospect(*map(np.array, (cost, loss, np.maximum.accumulate(needed))))


def _advice(found: _Prospect, records: CascadeTrace, aim: _Aim) -> str:
    """Return about how many more records it takes, or why more would not help."""
    if not np.isfinite(found.fewest):
        saving = found.loss[found.cost <= 1 - _SAVES]
        least = f" (the best loses {100 * saving.min():.1f})" if len(saving) else ""
        return (
            f"no policy that saves {_SAVES:.0%} or more loses less than {100 * aim.max_loss:.4g} points on these "
            f"records{least}, which more of them would hardly change: allow a larger loss, or add a model"
        )
    have = n_units(records.n, records.groups)
    more = max(found.fewest / HELD_OUT, _AT_LEAST * have) - have
    digits = 10 ** max(0, math.floor(math.log10(more)) - 1)
    return f"it would take about {math.ceil(more / digits) * digits:,} more {_unit(records)}"


def _unit(records: CascadeTrace) -> str:
    return "records" if records.groups is None else "groups"


def _not_yet(records: CascadeTrace, aim: _Aim, advice: str) -> Infeasible:
    have = counted(records.n, "record")
    if records.groups is not None:
        have += f" in {counted(records.groups.n, 'group')} of conversations and users"
    return Infeasible(
        f"no certificate yet: {have} cannot show that a cheaper policy loses at most "
        f"{100 * aim.max_loss:.4g} points against {aim.reference}; {advice}",
        binding="max_loss",
        nearest_budget=None,
        nearest_max_loss=None,
    )
