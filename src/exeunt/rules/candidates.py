"""Policies that lose less the more they cost, and the cheapest of which inputs show that it loses little enough."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from exeunt.costs.cost_model import CostModel
from exeunt.errors import Infeasible, InfeasibleBudget
from exeunt.policy import LossCertificate, Policy
from exeunt.rules.promises import Outcome, Promise, instead, passed
from exeunt.trace import CascadeTrace, ExitTrace
from exeunt.trace.grades import known_by
from exeunt.trace.groups import counts_of, mean, n_groups, units_text


@dataclass(frozen=True)
class Candidates:
    """Policies in the order of their tests, from the most expensive down; the first that fails ends the tests.

    `promise`, `delta`: what a certificate says. `cost`: between which costs the budgets lie. `reference`: the model of
    a cascade that the loss is measured against.
    """

    policies: list[Policy]
    promise: Promise
    delta: float
    cost: CostModel
    reference: str | None
    measure: str

    @classmethod
    def made(
        cls,
        fit: ExitTrace | CascadeTrace,
        make: Callable[..., Policy],
        promise: Promise,
        *,
        delta: float,
        points: int,
        evenly: bool,
        n_tests: int,
        reference: str | None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Candidates:
        """Return policies at `points` budgets, `evenly` spaced; or at half as many, and more near the limit on `fit`.

        `make`: returns a policy for a `budget`. `n_tests`: how many inputs, or groups, will test. With the limit 0 the
        best on `fit` comes first.
        """
        cost = instead(fit, reference).cost
        if isinstance(fit, CascadeTrace):
            ends = [fit.alone.cost.first, cost.full]
            cost = CostModel(ends if ends[0] < ends[1] else ends[1:], unit=fit.unit)
        lowest = cost.full + (cost.first - cost.full) * (1 - 1 / points)
        evenly |= promise.limit == 0
        coarse = points if evenly else min(points, max(2, points // 2))
        max_points = points if evenly else points + points // 2
        policies, outcomes = _policies(
            make,
            np.linspace(cost.full, lowest, coarse).tolist(),
            max_points,
            lambda policy: Outcome.of(policy, fit, reference),
            None if evenly else promise,
            progress,
        )
        if promise.limit == 0 and policies:
            best = int(np.argmin([promise.measured(outcome) for outcome in outcomes]))
            policies, outcomes = policies[best:], outcomes[best:]
        samples = [np.resize(promise.units(outcome), n_tests) for outcome in outcomes]
        promise = promise.with_tightest_bound(samples, delta)
        return cls(policies, promise, delta, cost, fit.reference or reference, fit.measure)

    def cheapest(self, tested: ExitTrace | CascadeTrace, allowed: float | None) -> Policy | None:
        """Return the cheapest policy that passes and whose budget is at most `allowed`, with its certificate.

        With None, where no budget was asked for, the mean cost of the tested inputs is the policy's budget.
        """
        outcomes, p_values = self._tests(tested)
        limit = np.inf if allowed is None else allowed * (1 + 1e-12)
        within = [k for k in range(passed(p_values, self.delta)) if self.policies[k].budget <= limit]
        if not within:
            return None
        k = within[-1]
        proof = self.certificate(tested, p_values[k], self.promise.measured(outcomes[k]))
        cheapest = self.policies[k] if allowed is not None else _measured_on(tested, self.policies[k])
        watched = cheapest.watched and replace(cheapest.watched, plans=len(self.policies))
        return replace(cheapest, loss_certificate=proof, watched=watched)

    def certificate(
        self, tested: ExitTrace | CascadeTrace, p_value: float, lost: float, bound: str | None = None
    ) -> LossCertificate:
        """Return what is certified of a policy that `lost` so much on these inputs."""
        return LossCertificate(
            self.promise.limit,
            self.delta,
            p_value,
            bound or self.promise.bound,
            lost,
            tested.n,
            self.reference,
            **counts_of(tested.groups),
            measure=self.measure,
            of=tested.counted,
        )

    def infeasible(self, tested: ExitTrace | CascadeTrace, allowed: float) -> Infeasible:
        """Return the error that names the guarantee in the way and the nearest pair that can be certified."""
        groups = tested.groups
        known, agrees = known_by(self.measure), self.measure == "agreement"
        outcomes, p_values = self._tests(tested)
        cost, family, max_loss = self.cost, self.policies, self.promise.limit
        instead_of, full_cost = "The full network", "the full cost"
        if self.reference not in (None, "the full network"):
            instead_of, full_cost = f"{self.reference} alone", f"the cost of {self.reference} alone"

        def share(amount: float) -> str:
            return f"{cost.show(amount)} ({cost.share(amount):.1%} of {full_cost})"

        def at_most(loss: float) -> str:
            return f"an agreement of {100 * (1 - loss):.4g}%" if agrees else f"a loss of {100 * loss:.4g}%"

        reached = next((k for k, policy in enumerate(family) if policy.budget <= allowed * (1 + 1e-12)), None)
        if reached is None:
            smallest = family[-1].budget if family else None
            smallest_text = "none can" if smallest is None else f"the smallest that can is {share(smallest)}"
            return Infeasible(
                f"the budget stands in the way: {share(allowed)} cannot be certified with these calibration "
                f"inputs, {smallest_text}; give more of them or a higher budget",
                binding="budget",
                nearest_budget=smallest,
                nearest_max_loss=max_loss,
            )
        # The least loss, in steps of 0.1 points, that all policies down to this budget pass.
        steps = np.arange(max_loss, 1.0, 0.001).tolist()
        place = bisect_left(
            steps,
            True,
            key=lambda step: all(
                p <= self.delta
                for p in self._p_values(outcomes[: reached + 1], self.promise.with_limit(step))
            ),
        )
        nearest_loss = steps[place] if place < len(steps) else None
        n_passed = passed(p_values, self.delta)
        nearest_budget = family[n_passed - 1].budget if n_passed else None
        could = []
        if nearest_budget is not None:
            could.append(f"{at_most(max_loss)} at a budget of {share(nearest_budget)}")
        if nearest_loss is not None:
            could.append(f"{at_most(nearest_loss)} at {share(family[reached].budget)}")
        units = units_text(tested.n, n_groups(groups), known)
        guarantee, lost, same, option = (
            ("agreement", f"of the {tested.counted} differ", "agrees with itself", "agree=1 (--agree 100%)")
            if agrees
            else ("loss", "is lost", "loses nothing", "max_loss=0 (--max-loss 0)")
        )
        return Infeasible(
            f"the {guarantee} stands in the way: {units} cannot show that at most {100 * max_loss:.4g}% {lost} at "
            f"{share(allowed)} by answering early; what can be shown: {' or '.join(could) or 'nothing with so few'}. "
            f"More {f'{known} inputs' if groups is None else 'groups'} show more. {instead_of} {same}, at its full "
            f"cost: it is what {option} gives where nothing better is found",
            binding="max_loss",
            nearest_budget=nearest_budget,
            nearest_max_loss=nearest_loss,
        )

    def _tests(self, tested: ExitTrace | CascadeTrace) -> tuple[list[Outcome], list[float]]:
        """Return what each policy does to the inputs, and its p-value."""
        outcomes = [Outcome.of(policy, tested, self.reference) for policy in self.policies]
        return outcomes, self._p_values(outcomes, self.promise)

    def _p_values(self, outcomes: Sequence[Outcome], promise: Promise) -> list[float]:
        return [promise.p_value(promise.units(outcome), self.delta) for outcome in outcomes]


def _policies(
    make: Callable[..., Policy],
    budgets: Sequence[float],
    max_policies: int,
    outcome: Callable[[Policy], Outcome],
    near: Promise | None,
    progress: Callable[[int, int], object] | None,
) -> tuple[list[Policy], list[Outcome]]:
    """Return a policy for each budget, from the highest that is feasible down to the lowest, and what each does.

    The highest may not be: where inputs differ in cost, the calibration inputs may cost more than the fit inputs.
    With a promise, further policies follow, up to `max_policies`: between those that differ most near its limit.
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
    while (
        near is not None
        and len(family) < max_policies
        and (k := _widest([near.measured(each) for each in outcomes], near.limit))
    ):
        try:
            between = make(budget=(family[k - 1].budget + family[k].budget) / 2)
        except InfeasibleBudget:  # its cascade may be another one than those of both neighbours
            break
        family.insert(k, between)
        outcomes.insert(k, outcome(between))
        if progress is not None:
            progress(len(family), max_policies)
    return family, outcomes


def _widest(measured: Sequence[float], limit: float) -> int:
    """Return before which policy one is missing, between two that differ most near the limit; 0 for none."""
    low, high = limit / 4, limit
    steps = [min(max(pair), high) - max(min(pair), low) for pair in pairwise(measured)]
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
