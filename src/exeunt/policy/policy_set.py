"""Policies for a grid of budgets in one file, so that a server can change its budget while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from exeunt._support.sealed_json import write_sealed
from exeunt._support.text import text_table
from exeunt.costs.budget_text import budget_list
from exeunt.errors import InfeasibleBudget, InputError
from exeunt.policy.policy import AGAIN, VERSION, Policy, body_to_save, read_policies
from exeunt.trace import ExitTrace, StoredTrace
from exeunt.trace.cascade_step import models_in_order
from exeunt.trace.cascade_trace import CascadeTrace

KEPT_WITH = "kept with probability"
"""Heading of the column of `kept_with`."""


@dataclass(frozen=True, eq=False)
class PolicySet:
    """Policies of one network, or of cascades, in order of their budgets; the expected cost never falls along them.

    Cascades ask their models in one order. A policy may skip models, which are then neither run nor paid for.

    Each policy keeps its budget on inputs like its calibration inputs. So the active budget must be chosen without
    looking at the inputs that are answered under it: by the clock, the price or the load. Where hard inputs get a
    budget of their own, the inputs answered under it differ from the calibration inputs, and no guarantee holds.

    Raises InputError for no policies, for policies of different costs or orders, or for two of the same budget.
    """

    policies: tuple[Policy, ...]

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.policies, key=lambda policy: policy.budget))
        if not ordered:
            raise InputError("a policy set needs at least one policy")
        if any(policy.cost.unit != ordered[0].cost.unit for policy in ordered) or any(
            a.cascade == b.cascade and a.cost != b.cost for a, b in pairwise(ordered)
        ):
            raise InputError("the policies of a set must be of one network: their costs differ")
        models_in_order(path for policy in ordered for path in policy.paths)
        for smaller, larger in pairwise(ordered):
            if smaller.budget == larger.budget:
                raise InputError(f"two policies of the set have the same budget, {smaller.budget:g}")
            if smaller.expected_cost > larger.expected_cost * (1 + 1e-12):
                raise InputError(
                    f"the policy for a budget of {larger.budget:g} is expected to cost less than the one "
                    f"for {smaller.budget:g}: a set must be monotone; make all with the same delta and data"
                )
        object.__setattr__(self, "policies", ordered)

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all models that any policy asks, in the order that all keep to; none for one network."""
        return models_in_order(path for policy in self.policies for path in policy.paths)

    @property
    def unasked(self) -> dict[str, str]:
        """Why a model is asked by none of the policies, by name; the reason is that of the largest budget."""
        *others, last = self.policies
        return {
            name: why
            for name, why in last.unasked.items()
            if all(name in policy.unasked for policy in others)
        }

    @classmethod
    def make(
        cls,
        preset: Callable[..., Policy],
        fit: ExitTrace | CascadeTrace,
        calibrate: ExitTrace | CascadeTrace | StoredTrace,
        *,
        budgets: str | Iterable[float | str],
        delta: float | None = None,
        jointly: bool = False,
        **options: Any,
    ) -> PolicySet:
        """Make one policy per budget. `budgets` may be a text such as "20%:80%:20%" (`budget_grid`).

        A budget whose policy would cost no more than the one before shares that one. The smallest budgets are left out
        if they cannot be kept, or not be certified. With `delta` each policy carries its own certificate, which holds
        for a budget that is chosen before calibration. With `jointly` all of them hold together with probability
        1 - delta. Then the choice may also depend on the result of the calibration and on the cost of earlier inputs,
        but not on the inputs to be answered.

        Raises InfeasibleBudget if no budget can be kept.
        """
        if not callable(preset):
            raise InputError(f"give what makes a policy, such as ex.auto, got {preset!r:.60}")
        amounts = [*feasible(fit.budget, budgets)]
        if jointly and delta is None:
            raise InputError("jointly is about guarantees: give a delta between 0 and 1, got None")
        each = delta / max(len(amounts), 1) if delta is not None and jointly else delta
        policies: list[Policy] = []
        for amount in amounts:
            try:
                policy = preset(fit, calibrate, budget=amount, delta=each, **options)
            except InfeasibleBudget:
                if policies or amount == amounts[-1]:
                    raise
                continue
            if not policies or policy.expected_cost > policies[-1].expected_cost:
                policies.append(policy)
        return cls(tuple(policies))

    def at(self, budget: float | str) -> Policy:
        """Return the policy of the largest budget that is not above this one: its guarantee covers it.

        Raises InfeasibleBudget below the smallest.
        """
        cost = self.policies[0].cost
        amount = cost.amount(budget)
        fitting = [policy for policy in self.policies if policy.budget <= amount * (1 + 1e-12)]
        if not fitting:
            smallest = self.policies[0].budget
            share = f"{100 * cost.share(smallest):.4g}% of {cost.whole}"
            raise InfeasibleBudget(
                f"the smallest budget of this set is {cost.show(smallest)}, {share}, got {cost.show(amount)}: ask for "
                "at least that, or calibrate with smaller budgets",
                smallest_budget=smallest,
            )
        return fitting[-1]

    def __len__(self) -> int:
        return len(self.policies)

    def __iter__(self) -> Iterator[Policy]:
        return iter(self.policies)

    def __str__(self) -> str:
        cost, cascades = self.policies[0].cost, bool(self.models)
        rows = []
        for policy in self.policies:
            costs = [
                cost.show(policy.budget),
                f"{cost.share(policy.budget):.1%}",
                cost.show(policy.expected_cost),
            ]
            rows.append([*costs, policy.name, *[", ".join(policy.models)] * cascades, kept_with(policy)])
        header = ["budget", "of full", "expected cost", "policy", *["asks"] * cascades, KEPT_WITH]
        return "\n".join([text_table(header, rows), *self.unasked.values()])

    __repr__ = __str__

    def save(self, path: str | Path) -> None:
        """Write the set as one JSON file, atomically; `load` gives it back to the last bit.

        Raises as `Policy.save` does.
        """
        body = [body_to_save(policy) for policy in self.policies]
        write_sealed(path, "policies", body, format_="exeunt-policy-set", version=VERSION)

    @classmethod
    def load(cls, path: str | Path) -> PolicySet:
        """Read a set. Raises ArtefactError if the file is truncated, edited, foreign, or of another version."""

        def build(body: Any) -> PolicySet:
            return cls(tuple(Policy.from_dict(policy) for policy in body))

        return read_policies(
            path, "policies", build, kind="policy set", format_="exeunt-policy-set", remedy=AGAIN
        )


def feasible(
    amount_of: Callable[[float | str], float],
    budgets: str | Iterable[float | str],
    left_out: Callable[[float | str], object] = lambda _: None,
) -> dict[float, float | str]:
    """Return the budgets that can be kept, by ascending amounts. `amount_of`: such as `CostModel.budget`. `left_out`:
    called with each of the others.

    Raises InfeasibleBudget if there is none.
    """
    in_reach, refused = dict[float, float | str](), None
    for budget in budget_list(budgets):
        try:
            in_reach.setdefault(amount_of(budget), budget)
        except InfeasibleBudget as error:  # noqa: PERF203
            refused = error
            left_out(budget)
    if refused is not None and not in_reach:
        raise refused
    return dict(sorted(in_reach.items()))


def kept_with(policy: Policy) -> str:
    """Return the probability with which a policy guarantees to keep its budget, as text."""
    if policy.is_certain:
        return "1"
    return "not certified" if policy.cost_certificate is None else f"{1 - policy.cost_certificate.delta:.6g}"
