"""Policies that lose less the more they cost, and the cheapest of which inputs show that it loses little enough."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from exeunt.costs.cost_model import CostModel
from exeunt.errors import Infeasible, InfeasibleBudget
from exeunt.policy import EarlyCertificate, LossCertificate, Policy
from exeunt.policy.certificates import CERTAIN
from exeunt.rules.promises import MeanLoss, Outcome, Promise, instead, passed
from exeunt.trace import CascadeTrace, ExitTrace
from exeunt.trace.grades import known_by
from exeunt.trace.groups import counts_of, mean, n_groups, units_text


@dataclass(frozen=True)
class Candidates:
    """Policies in the order of their tests; the first that fails ends the tests.

    `promises`, `delta`: what certificates say. A policy passes if it passes the tests of all promises, each at level
    `delta`: one that breaks any of them passes the test of that one with probability `delta` at most, so nothing is
    divided. `cost`: between which costs the budgets lie. `reference`: the model of a cascade that the loss is measured
    against.
    """

    policies: list[Policy]
    promises: Sequence[Promise]
    delta: float
    cost: CostModel
    reference: str | None
    measure: str

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

        `make`: returns a policy for a `budget`. `n_tests`: how many inputs, or groups, will test. A mean loss alone is
        tested from the most expensive policy down; with the limit 0 from the best on `fit` down. Where there are other
        promises, it is not the most expensive policy that is the safest: it answers nothing early. Then the policy that
        is the most likely to pass, by `fit`, comes first, and cheaper ones after it, the more likely ones first.
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
        candidates = cls(policies, promises, delta, cost, fit.reference or reference, fit.measure)
        if not policies or (candidates.is_of_loss_alone and not none_lost):
            return candidates
        if candidates.is_of_loss_alone:
            best = int(np.argmin([promises[0].measured(outcome) for outcome in outcomes]))
            return replace(candidates, policies=policies[best:])
        p_values = [
            max(promise.p_value(units, delta) for promise, units in zip(promises, each, strict=True))
            for each in zip(*samples, strict=True)
        ]
        order = sorted(range(int(np.argmin(p_values)), len(policies)), key=p_values.__getitem__)
        return replace(candidates, policies=[policies[k] for k in order])

    @property
    def is_of_loss_alone(self) -> bool:
        """Whether a mean loss is all that is promised."""
        return [promise.name for promise in self.promises] == [MeanLoss.name]

    def cheapest(self, tested: ExitTrace | CascadeTrace, allowed: float | None) -> Policy | None:
        """Return the cheapest policy that passes and whose budget is at most `allowed`, with its certificates.

        With None, where no budget was asked for, the mean cost of the tested inputs is the policy's budget.
        """
        outcomes, p_values = self._tests(tested)
        limit = np.inf if allowed is None else allowed * (1 + 1e-12)
        n_passed = passed([max(each) for each in p_values], self.delta)
        within = [k for k in range(n_passed) if self.policies[k].budget <= limit]
        if not within:
            return None
        k = min(within, key=lambda passing: self.policies[passing].budget)
        cheapest = self.policies[k] if allowed is not None else _measured_on(tested, self.policies[k])
        watched = cheapest.watched and replace(cheapest.watched, plans=len(self.policies))
        proofs = [
            promise.certificate(outcomes[k], p_value, **self._about(tested))
            for promise, p_value in zip(self.promises, p_values[k], strict=True)
        ]
        return replace(
            cheapest,
            loss_certificate=next((one for one in proofs if isinstance(one, LossCertificate)), None),
            promises=tuple(one for one in proofs if isinstance(one, EarlyCertificate)),
            watched=watched,
        )

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

    def infeasible(self, tested: ExitTrace | CascadeTrace, allowed: float) -> Infeasible:
        """Return the error that names the guarantee in the way and the nearest pair that can be certified."""
        groups = tested.groups
        known, agrees, counted = known_by(self.measure), self.measure == "agreement", tested.counted
        outcomes, p_values = self._tests(tested)
        cost, family = self.cost, self.policies
        instead_of, full_cost = "The full network", "the full cost"
        if self.reference not in (None, "the full network"):
            instead_of, full_cost = f"{self.reference} alone", f"the cost of {self.reference} alone"

        def share(amount: float) -> str:
            return f"{cost.show(amount)} ({cost.share(amount):.1%} of {full_cost})"

        reached = next((k for k, policy in enumerate(family) if policy.budget <= allowed * (1 + 1e-12)), None)
        if reached is None:
            smallest = min((policy.budget for policy in family), default=None)
            smallest_text = "none can" if smallest is None else f"the smallest that can is {share(smallest)}"
            max_loss = next((one.limit for one in self.promises if one.name == MeanLoss.name), None)
            return Infeasible(
                f"the budget stands in the way: {share(allowed)} cannot be certified with these calibration "
                f"inputs, {smallest_text}; give more of them or a higher budget",
                binding="budget",
                nearest_budget=smallest,
                nearest_max_loss=max_loss,
            )
        if not self.is_of_loss_alone and not any(outcome.early.any() for outcome in outcomes):
            return Infeasible(
                f"every policy that was tried asks {self.reference} first, so nothing is answered early: name a dearer "
                "model as the reference",
                binding=next(one.name for one in self.promises if one.name != MeanLoss.name),
            )
        n_passed = passed([max(each) for each in p_values], self.delta)
        place = int(np.argmax(p_values[n_passed]))
        promise = self.promises[place]
        nearest = self._nearest_limit(place, outcomes[: reached + 1])
        nearest_budget = min((policy.budget for policy in family[:n_passed]), default=None)
        could = []
        if nearest_budget is not None:
            could.append(
                f"{promise.words(self.measure, counted).instead} at a budget of {share(nearest_budget)}"
            )
        if nearest is not None:
            wider = promise.with_limit(nearest).words(self.measure, counted)
            could.append(f"{wider.instead} at {share(family[reached].budget)}")
        units = units_text(tested.n, n_groups(groups), known)
        early = alone = ""
        if self.is_of_loss_alone:
            same, option = (
                ("agrees with itself", "agree=1 (--agree 100%)")
                if agrees
                else ("loses nothing", "max_loss=0 (--max-loss 0)")
            )
            early = " by answering early"
            alone = f". {instead_of} {same}, at its full cost: it is what {option} gives where nothing better is found"
        words = promise.words(self.measure, counted)
        return Infeasible(
            f"the {words.subject} stands in the way: {units} cannot show that {words.claim} at "
            f"{share(allowed)}{early}; what can be shown: {' or '.join(could) or 'nothing with so few'}. "
            f"More {f'{known} inputs' if groups is None else 'groups'} show more{alone}",
            binding=promise.name,
            nearest_budget=nearest_budget,
            nearest_max_loss=nearest if promise.name == MeanLoss.name else None,
            nearest_limit=nearest,
        )

    def _nearest_limit(self, place: int, outcomes: Sequence[Outcome]) -> float | None:
        """Return the least limit of one promise, in steps of 0.1 points, with which all of these pass every promise."""
        promise = self.promises[place]
        steps = np.arange(promise.limit, 1.0, 0.001).tolist()

        def pass_at(step: float) -> bool:
            promises = [*self.promises[:place], promise.with_limit(step), *self.promises[place + 1 :]]
            return all(p <= self.delta for outcome in outcomes for p in self._p_values(outcome, promises))

        found = bisect_left(steps, True, key=pass_at)
        return steps[found] if found < len(steps) else None

    def _tests(self, tested: ExitTrace | CascadeTrace) -> tuple[list[Outcome], list[list[float]]]:
        """Return what each policy does to the inputs, and its p-values, one for each promise."""
        outcomes = [Outcome.of(policy, tested, self.reference) for policy in self.policies]
        return outcomes, [self._p_values(outcome, self.promises) for outcome in outcomes]

    def _p_values(self, outcome: Outcome, promises: Sequence[Promise]) -> list[float]:
        return [promise.p_value(promise.units(outcome), self.delta) for promise in promises]


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
