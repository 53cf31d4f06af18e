"""Policies that lose less the more they cost, and the cheapest of which inputs show that it loses little enough."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from exeunt._support.arrays import Floats
from exeunt.costs.cost_model import CostModel
from exeunt.errors import Infeasible, InfeasibleBudget
from exeunt.guarantees.p_values import LOSS_BOUNDS
from exeunt.policy import LossCertificate, Policy
from exeunt.trace import CascadeTrace, ExitTrace
from exeunt.trace.grades import known_by
from exeunt.trace.groups import counts_of, mean, n_groups, per_unit, units_text


def instead(inputs: ExitTrace | CascadeTrace, reference: str | None) -> ExitTrace:
    """Return the trace whose last exit a user would ask otherwise."""
    return inputs if isinstance(inputs, ExitTrace) else inputs[str(reference)]


def lost_by(policy: Policy, inputs: ExitTrace | CascadeTrace, reference: str | None) -> Floats:
    """Return the quality that each input loses by the policy, in [-1, 1]: 1 is a right answer, -1 a wrong one."""
    answered = policy.answer.on(policy.along(inputs)).quality
    # The reference agrees with itself, also where it is no exit of the trace.
    best = 1.0 if inputs.reference else instead(inputs, reference).quality[:, -1]
    lost: Floats = best - answered[np.arange(len(answered)), policy.route(inputs)]
    return lost


@dataclass(frozen=True)
class Candidates:
    """Policies in the order of their tests, from the most expensive down; the first that fails ends the tests.

    `max_loss`, `delta`: what a certificate says. `bound`: the name of the bound that tests. `cost`: between which costs
    the budgets lie. `reference`: the model of a cascade that the loss is measured against.
    """

    policies: list[Policy]
    max_loss: float
    delta: float
    bound: str
    cost: CostModel
    reference: str | None
    measure: str

    @classmethod
    def made(
        cls,
        fit: ExitTrace | CascadeTrace,
        make: Callable[..., Policy],
        *,
        max_loss: float,
        delta: float,
        points: int,
        evenly: bool,
        n_tests: int,
        reference: str | None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Candidates:
        """Return policies at `points` budgets, `evenly` spaced; or at half as many, and more near the limit on `fit`.

        `make`: returns a policy for a `budget`. `n_tests`: how many inputs, or groups, will test. With `max_loss` 0 the
        best on `fit` comes first.
        """
        cost = instead(fit, reference).cost
        if isinstance(fit, CascadeTrace):
            ends = [fit.alone.cost.first, cost.full]
            cost = CostModel(ends if ends[0] < ends[1] else ends[1:], unit=fit.unit)
        lowest = cost.full + (cost.first - cost.full) * (1 - 1 / points)
        evenly |= max_loss == 0
        coarse = points if evenly else min(points, max(2, points // 2))
        max_points = points if evenly else points + points // 2
        policies, losses = _policies(
            make,
            np.linspace(cost.full, lowest, coarse).tolist(),
            max_points,
            lambda policy: lost_by(policy, fit, reference),
            0.0 if evenly else max_loss,
            progress,
        )
        if max_loss == 0 and policies:
            best = int(np.argmin([mean(loss, fit.groups) for loss in losses]))
            policies, losses = policies[best:], losses[best:]
        on_units = [np.resize(per_unit(loss, fit.groups, max_loss), n_tests) for loss in losses]
        bound = _tighter(on_units, max_loss, delta)
        return cls(policies, max_loss, delta, bound, cost, fit.reference or reference, fit.measure)

    def cheapest(self, tested: ExitTrace | CascadeTrace, allowed: float | None) -> Policy | None:
        """Return the cheapest policy that passes and whose budget is at most `allowed`, with its certificate.

        With None, where no budget was asked for, the mean cost of the tested inputs is the policy's budget.
        """
        losses, p_values, passed = self._tests(tested)
        limit = np.inf if allowed is None else allowed * (1 + 1e-12)
        within = [k for k in range(passed) if self.policies[k].budget <= limit]
        if not within:
            return None
        k = within[-1]
        proof = self.certificate(tested, p_values[k], float(mean(losses[k], tested.groups)))
        cheapest = self.policies[k] if allowed is not None else _measured_on(tested, self.policies[k])
        watched = cheapest.watched and replace(cheapest.watched, plans=len(self.policies))
        return replace(cheapest, loss_certificate=proof, watched=watched)

    def certificate(
        self, tested: ExitTrace | CascadeTrace, p_value: float, lost: float, bound: str | None = None
    ) -> LossCertificate:
        """Return what is certified of a policy that `lost` so much on these inputs."""
        return LossCertificate(
            self.max_loss,
            self.delta,
            p_value,
            bound or self.bound,
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
        losses, _, passed = self._tests(tested)
        cost, family, max_loss = self.cost, self.policies, self.max_loss
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
                LOSS_BOUNDS[self.bound](per_unit(x, groups, step), step, self.delta) <= self.delta
                for x in losses[: reached + 1]
            ),
        )
        nearest_loss = steps[place] if place < len(steps) else None
        nearest_budget = family[passed - 1].budget if passed else None
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

    def _tests(self, tested: ExitTrace | CascadeTrace) -> tuple[list[Floats], list[float], int]:
        """Return what each policy loses on every input, its p-value, and how many pass in a row from the start."""
        losses = [lost_by(policy, tested, self.reference) for policy in self.policies]
        p_values = [
            LOSS_BOUNDS[self.bound](per_unit(loss, tested.groups, self.max_loss), self.max_loss, self.delta)
            for loss in losses
        ]
        return losses, p_values, _passed(p_values, self.delta)


def _policies(
    make: Callable[..., Policy],
    budgets: Sequence[float],
    max_policies: int,
    lost: Callable[[Policy], Floats],
    limit: float,
    progress: Callable[[int, int], object] | None,
) -> tuple[list[Policy], list[Floats]]:
    """Return a policy for each budget, from the highest that is feasible down to the lowest, and what each loses.

    The highest may not be: where inputs differ in cost, the calibration inputs may cost more than the fit inputs.
    With a `limit`, further policies follow, up to `max_policies`: between those whose losses differ most near it.
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
    losses = [lost(policy) for policy in family]
    while (
        limit
        and len(family) < max_policies
        and (k := _widest([float(loss.mean()) for loss in losses], limit))
    ):
        try:
            between = make(budget=(family[k - 1].budget + family[k].budget) / 2)
        except InfeasibleBudget:  # its cascade may be another one than those of both neighbours
            break
        family.insert(k, between)
        losses.insert(k, lost(between))
        if progress is not None:
            progress(len(family), max_policies)
    return family, losses


def _widest(losses: Sequence[float], limit: float) -> int:
    """Return before which policy one is missing, between two whose losses differ most near the limit; 0 for none."""
    low, high = limit / 4, limit
    steps = [min(max(pair), high) - max(min(pair), low) for pair in pairwise(losses)]
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


def _tighter(losses: Sequence[Floats], max_loss: float, delta: float) -> str:
    """Return the bound that certifies the cheaper policy by losses on the fit inputs, which guarantee nothing.

    Of equally good ones it is betting, which takes less where losses are near the limit.
    """
    return max(
        LOSS_BOUNDS,
        key=lambda name: _passed([LOSS_BOUNDS[name](loss, max_loss, delta) for loss in losses], delta),
    )


def _passed(p_values: Sequence[float], delta: float) -> int:
    """Return how many hypotheses are rejected in a row from the start."""
    return next((k for k, p in enumerate(p_values) if p > delta), len(p_values))
