"""Pacing: the policy for the next input from a set, so that a total of money lasts for all inputs and is used."""

from __future__ import annotations

from collections.abc import Sequence

from exeunt._support import arrays
from exeunt.costs.budget_text import amount_text, parse_budget
from exeunt.errors import InfeasibleBudget, InputError
from exeunt.policy.policy import Policy
from exeunt.policy.policy_set import PolicySet

_SHARE = 20
"""How expensive recent answers have been is judged on one in so many of all inputs, at least `_LEAST` of them."""
_LEAST = 50
_AT_ONCE = 10
"""One in so many of the inputs to come is under way: a total that lasts to the end is used to the end."""


class Pace:
    """Chooses the policy for each next input by what is left of a total.

    The next input may cost its even share of what is left. The dearest policy that is expected to cost no more answers
    it; where recent answers cost more than expected, all policies are expected to cost so much more. What one input
    saves or overdraws, all later ones share. A policy is left out where its dearest answer would leave too little for a
    first answer to each input to come. Where none is left, it is the one whose first answer is the cheapest: a pace
    spends evenly, and a `Ledger` sees to it that the total is kept.

    `policies`: of one network or of the same models. `total`: in their unit, or a text such as "5 usd". `inputs`: how
    many will be answered. `firsts`: by policy, the most that a first answer to one of these inputs may cost; by default
    what the costs of the policies say of any input. Which policy answers an input depends on the inputs before it, not
    on the input itself. The certificate of a policy is about inputs under that policy alone.

    ::

        pace = ex.Pace(policies, total="5 usd", inputs=1000)
        policy = pace.begin()               # before each input
        pace.end(policy, cost)              # once it is answered; others may have begun meanwhile

    Raises InfeasibleBudget if the total does not suffice for a first answer to each input, InputError for fewer than
    one input, or a total below 0.
    """

    def __init__(
        self,
        policies: PolicySet,
        *,
        total: float | str,
        inputs: int,
        firsts: Sequence[float] | None = None,
    ) -> None:
        if not isinstance(policies, PolicySet):
            raise InputError(
                f"a pace chooses among the policies of a PolicySet, got {type(policies).__name__}: see PolicySet.make"
            )
        self.policies, self.models = tuple(policies), policies.models
        cost = self.policies[0].cost
        if isinstance(total, str) and "%" in total:
            raise InputError(f"total is an amount for all inputs, such as '5 {cost.unit}', got {total!r}")
        amount = parse_budget(total, full=cost.reference, unit=cost.unit) if isinstance(total, str) else total
        if (left := arrays.finite(amount, "total")) < 0:
            raise InputError(f"total is what all answers may cost, at least 0, got {total!r}")
        if inputs < 1:
            raise InputError(f"inputs is how many will be answered, at least 1, got {inputs}")
        # Where inputs differ in cost, the dearest first answer is as much dearer than the mean as the dearest of all.
        highest = firsts or [
            policy.cost.first * (policy.cost.highest / policy.cost.full) for policy in self.policies
        ]
        if len(highest) != len(self.policies):
            raise InputError(
                f"firsts has one amount for each of {len(self.policies)} policies, got {len(highest)}"
            )
        self._first = min(highest)
        self._cheapest = highest.index(self._first)
        self.update(total=left, inputs=inputs)
        if self._left < self._first * inputs * (1 - 1e-9):
            raise InfeasibleBudget(
                f"a first answer to each of {inputs:,} inputs may cost {amount_text(self._first * inputs, cost.unit)}, "
                f"and the total is {amount_text(amount, cost.unit)}: give more, or answer fewer inputs",
                smallest_budget=self._first * inputs,
            )
        self._kept = 1 - 1 / max(_LEAST, self._to_come // _SHARE)
        expected = self.policies[0].expected_cost / (1 - self._kept)
        self._expected = self._paid = expected  # as if so many answers had cost what was expected

    def update(self, *, total: float, inputs: int) -> None:
        """Go on with what is left of a total that others spend from, too, and the inputs that are still to come.

        How expensive recent answers have been is remembered. Call it while no input is under way here.
        """
        self._left, self._to_come = total, inputs
        self._under_way: dict[int, int] = {}

    @property
    def to_come(self) -> int:
        """How many inputs have not begun."""
        return self._to_come

    @property
    def left(self) -> float:
        """What is left of the total, less what answers under way are expected to cost."""
        return self._left - sum(n * self._usual(self.policies[k]) for k, n in self._under_way.items())

    @property
    def at_once(self) -> int:
        """How many inputs to have under way: these count at the most that they may cost, which others cannot spend."""
        return max(1, self._to_come // _AT_ONCE)

    def begin(self) -> Policy:
        """Return the policy for the next input. Raises InputError if all inputs have begun."""
        if self._to_come == 0:
            raise InputError("all inputs have begun: give a pace the number of inputs that it is for")
        available = self._left - sum(n * self.policies[k].costliest for k, n in self._under_way.items())
        spare = available - (self._to_come - 1) * self._first
        share = self.left / self._to_come
        affordable = [policy.costliest <= spare * (1 + 1e-9) for policy in self.policies]
        chosen = max(
            (k for k, policy in enumerate(self.policies) if affordable[k] and self._usual(policy) <= share),
            default=0 if affordable[0] else self._cheapest,
        )
        self._to_come -= 1
        self._under_way[chosen] = self._under_way.get(chosen, 0) + 1
        return self.policies[chosen]

    def end(self, policy: Policy, cost: float) -> None:
        """Record what an answer has cost.

        Raises InputError for a policy under which no input has begun, or a cost that is no number of at least 0.
        """
        if arrays.finite(cost, "cost") < 0:
            raise InputError(f"cost is what the answer has cost, at least 0, got {cost!r}")
        chosen = next(
            (
                k
                for k, candidate in enumerate(self.policies)
                if candidate is policy and self._under_way.get(k)
            ),
            None,
        )
        if chosen is None:
            raise InputError("no input has begun under this policy: call end once after each begin")
        self._under_way[chosen] -= 1
        self._left -= cost
        self._expected = self._kept * self._expected + policy.expected_cost
        self._paid = self._kept * self._paid + cost

    def _usual(self, policy: Policy) -> float:
        return policy.expected_cost * self._paid / self._expected
