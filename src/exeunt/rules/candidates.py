"""Policies that lose less the more they cost, and the cheapest of which inputs show that it loses little enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise, takewhile
from typing import Any

import numpy as np

from exeunt.costs.cost_model import CostModel
from exeunt.errors import InfeasibleBudget
from exeunt.policy import LossCertificate, Policy
from exeunt.policy.certificates import CERTAIN
from exeunt.rules.outcomes import Outcome, instead
from exeunt.rules.promises import MeanLoss, Promise
from exeunt.trace import CascadeTrace, ExitTrace
from exeunt.trace.groups import counts_of, mean, n_groups


@dataclass(frozen=True)
class Candidates:
    """Policies from the most expensive down, of which tests say what they keep; the first that fails ends the tests.

    `promises`, `delta`: what certificates say. A policy passes if it passes the tests of all promises, each at level
    `delta`: one that breaks any of them passes the test of that one with probability `delta` at most, so nothing is
    divided. `cost`: between which costs the budgets lie. `reference`: the model of a cascade that the loss is measured
    against. `outcomes`: of each policy, on the fit inputs. `n_tests`: how many inputs, or groups, test.
    """

    policies: list[Policy]
    promises: Sequence[Promise]
    delta: float
    cost: CostModel
    reference: str | None
    measure: str
    outcomes: Sequence[Outcome]
    n_tests: int

    @classmethod
    def made(
        cls,
        fit: ExitTrace | CascadeTrace,
        make: Callable[..., Policy],
        promises: Sequence[Promise],
        *,
        delta: float,
        points: int,
        evenly: bool,
        n_tests: int,
        reference: str | None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Candidates:
        """Return policies at `points` budgets, `evenly` spaced; or at half as many, and more near the limit on `fit`.

        `make`: returns a policy for a `budget`. `n_tests`: how many inputs, or groups, will test. Where a mean loss of
        0 is all that is promised, the first is the best on `fit`.
        """
        cost = instead(fit, reference).cost
        if isinstance(fit, CascadeTrace):
            ends = [fit.alone.cost.first, cost.full]
            cost = CostModel(ends if ends[0] < ends[1] else ends[1:], unit=fit.unit)
        lowest = cost.full + (cost.first - cost.full) * (1 - 1 / points)
        none_lost = any(promise.limit == 0 for promise in promises)
        evenly |= none_lost
        coarse = points if evenly else min(points, max(2, points // 2))
        max_points = points if evenly else points + points // 2
        policies, outcomes = _policies(
            make,
            np.linspace(cost.full, lowest, coarse).tolist(),
            max_points,
            lambda policy: Outcome.of(policy, fit, reference),
            () if evenly else promises,
            progress,
        )
        samples = [
            [np.resize(promise.units(outcome), n_tests) for outcome in outcomes] for promise in promises
        ]
        promises = [
            promise.with_tightest_bound(units, delta, grouped=fit.groups is not None)
            for promise, units in zip(promises, samples, strict=True)
        ]
        if none_lost and len(promises) == 1 and policies:
            best = int(np.argmin([promises[0].measured(outcome) for outcome in outcomes]))
            policies, outcomes = policies[best:], outcomes[best:]
        reference = fit.reference or reference
        return cls(policies, promises, delta, cost, reference, fit.measure, outcomes, n_tests)

    def cheapest(self, tested: ExitTrace | CascadeTrace, allowed: float | None) -> Policy | None:
        """Return the cheapest policy that passes and whose budget is at most `allowed`, with its certificates.

        With None, where no budget was asked for, the mean cost of the tested inputs is the policy's budget.
        """
        tests = self.tested_on(tested)
        k = tests.cheapest(self.promises, np.inf if allowed is None else allowed)
        if k is None:
            return None
        cheapest = self.policies[k] if allowed is not None else _measured_on(tested, self.policies[k])
        watched = cheapest.watched and replace(cheapest.watched, plans=len(self.policies))
        proofs = [
            promise.certificate(tests.outcome(k), tests.p_value(promise, k), **self._about(tested))
            for promise in self.promises
        ]
        return replace(
            cheapest,
            loss_certificate=next((one for one in proofs if isinstance(one, LossCertificate)), None),
            promises=tuple(one for one in proofs if not isinstance(one, LossCertificate)),
            watched=watched,
        )

    def tested_on(self, tested: ExitTrace | CascadeTrace) -> FixedSequence:
        """Return the tests on these inputs."""
        return FixedSequence(self, lambda k: Outcome.of(self.policies[k], tested, self.reference))

    def nothing_lost(self, tested: ExitTrace | CascadeTrace) -> LossCertificate:
        """Return the certificate of a policy that gives the answers of the reference."""
        return LossCertificate(0.0, p_value=0.0, bound=CERTAIN, loss=0.0, **self._about(tested))

    def _about(self, tested: ExitTrace | CascadeTrace) -> dict[str, Any]:
        """Return what all certificates say of the inputs that tested a policy."""
        return {
            "delta": self.delta,
            "n_test": tested.n,
            "reference": self.reference,
            **counts_of(tested.groups),
            "measure": self.measure,
            "of": tested.counted,
        }


class FixedSequence:
    """The tests of candidates in a row, on inputs that had no part in them; the first that fails ends them."""

    def __init__(self, candidates: Candidates, outcome: Callable[[int], Outcome]) -> None:
        """`outcome`: what policy k does to the inputs."""
        self._of, self.outcome = candidates, cache(outcome)
        self._p_values: dict[tuple[Promise, int, bool], float] = {}

    def p_value(self, promise: Promise, k: int, *, on_fit: bool = False) -> float:
        """Return the p-value of a promise of policy k; `on_fit`: of as many fit inputs, which guarantee nothing."""
        if (key := (promise, k, on_fit)) not in self._p_values:
            units = promise.units(self._of.outcomes[k] if on_fit else self.outcome(k))
            units = np.resize(units, self._of.n_tests) if on_fit else units
            self._p_values[key] = promise.p_value(units, self._of.delta)
        return self._p_values[key]

    def _largest(self, promises: Sequence[Promise], k: int, *, on_fit: bool = False) -> float:
        return max(self.p_value(promise, k, on_fit=on_fit) for promise in promises)

    def order(self, promises: Sequence[Promise]) -> Sequence[int]:
        """Return the policies in the order of their tests, by what fit inputs say.

        A mean loss alone is tested from the most expensive policy down. With other promises it is not the safest: it
        answers nothing early. Then the policy that is the most likely to pass comes first, and cheaper ones after it,
        the more likely ones first.
        """
        every = range(len(self._of.policies))
        if not every or [promise.name for promise in promises] == [MeanLoss.name]:
            return every
        p_values = [self._largest(promises, k, on_fit=True) for k in every]
        return sorted(every[int(np.argmin(p_values)) :], key=p_values.__getitem__)

    def passed(self, promises: Sequence[Promise]) -> list[int]:
        """Return the policies that pass the tests of all promises, up to the first that does not."""
        return list(takewhile(lambda k: self._largest(promises, k) <= self._of.delta, self.order(promises)))

    def cheapest(self, promises: Sequence[Promise], allowed: float) -> int | None:
        """Return the cheapest policy that passes and whose budget is at most `allowed`; None if there is none."""
        budgets = {k: self._of.policies[k].budget for k in self.passed(promises)}
        within = [k for k, budget in budgets.items() if budget <= allowed * (1 + 1e-12)]
        return min(within, key=budgets.__getitem__, default=None)


def _policies(
    make: Callable[..., Policy],
    budgets: Sequence[float],
    max_policies: int,
    outcome: Callable[[Policy], Outcome],
    near: Sequence[Promise],
    progress: Callable[[int, int], object] | None,
) -> tuple[list[Policy], list[Outcome]]:
    """Return a policy for each budget, from the highest that is feasible down to the lowest, and what each does.

    The highest may not be: where inputs differ in cost, the calibration inputs may cost more than the fit inputs.
    With promises, further policies follow, up to `max_policies`: between those that differ most `near` their limits.
    """
    family: list[Policy] = []
    for amount in budgets:
        try:
            family.append(make(budget=amount))
        except InfeasibleBudget:
            if family:  # then lower ones are infeasible as well
                break
        if progress is not None:
            progress(len(family), max_policies)
    outcomes = [outcome(policy) for policy in family]

    def shares(each: Outcome) -> float:
        return max(promise.measured(each) / promise.limit for promise in near)

    while near and len(family) < max_policies and (k := _widest([shares(each) for each in outcomes])):
        try:
            between = make(budget=(family[k - 1].budget + family[k].budget) / 2)
        except InfeasibleBudget:  # its cascade may be another one than those of both neighbours
            break
        family.insert(k, between)
        outcomes.insert(k, outcome(between))
        if progress is not None:
            progress(len(family), max_policies)
    return family, outcomes


def _widest(shares: Sequence[float]) -> int:
    """Return before which policy one is missing, between two that differ most near their limits; 0 for none.

    `shares`: of its limit, what each policy has of the promise that it is the nearest to breaking.
    """
    steps = [min(max(pair), 1.0) - max(min(pair), 0.25) for pair in pairwise(shares)]
    return int(np.argmax(steps)) + 1 if steps and max(steps) > 0 else 0


def _measured_on(tested: ExitTrace | CascadeTrace, policy: Policy) -> Policy:
    """Return the policy with what the tested inputs cost and where they were answered, in place of what was planned."""
    exits, cost, groups = policy.route(tested), policy.along(tested).cost, tested.groups
    paid = float(mean(cost.of_inputs(tested.n)[np.arange(tested.n), exits], groups))
    counts = np.bincount(exits, minlength=policy.n_exits)
    return replace(
        policy,
        budget=paid,
        calibration_cost=paid,
        counts=counts,
        n_calibration=tested.n,
        n_groups=n_groups(groups),
        distribution=None,
    )
