"""What is said where no policy can be certified: which promise stands in the way, and what would do."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from exeunt.errors import Infeasible
from exeunt.rules.candidates import Candidates, FixedSequence
from exeunt.rules.promises import EarlyPromise, MeanLoss, Promise
from exeunt.trace import CascadeTrace, ExitTrace
from exeunt.trace.grades import known_by
from exeunt.trace.groups import n_groups, units_text


def infeasible(candidates: Candidates, tested: ExitTrace | CascadeTrace, allowed: float) -> Infeasible:
    """Return the error that names the guarantee in the way, and the nearest limits that can be certified."""
    cost, promises, tests = candidates.cost, candidates.promises, candidates.tested_on(tested)
    instead_of, full_cost = "The full network", "the full cost"
    if candidates.reference not in (None, "the full network"):
        instead_of, full_cost = (
            f"{candidates.reference} alone",
            f"the cost of {candidates.reference} alone",
        )

    def share(amount: float) -> str:
        return f"{cost.show(amount)} ({cost.share(amount):.1%} of {full_cost})"

    budgets = [policy.budget for policy in candidates.policies]
    early = next((promise for promise in promises if isinstance(promise, EarlyPromise)), None)
    if all(budget > allowed * (1 + 1e-12) for budget in budgets):
        smallest = min(budgets, default=None)
        smallest_text = "none can" if smallest is None else f"the smallest that can is {share(smallest)}"
        return Infeasible(
            f"the budget stands in the way: {share(allowed)} cannot be certified with these calibration "
            f"inputs, {smallest_text}; give more of them or a higher budget",
            binding="budget",
            nearest_budget=smallest,
            nearest_limits={promise.name: promise.limit for promise in promises},
        )
    if early is not None and not any(tests.outcome(k).early.any() for k in range(len(budgets))):
        return Infeasible(
            f"every policy that was tried asks {candidates.reference} first, so nothing is answered early: name a "
            "dearer model as the reference",
            binding=early.name,
        )
    nearest = _nearest(tests, promises, allowed)
    passed = tests.passed(promises)
    failed = tests.order(promises)[len(passed)]
    binding = max(promises, key=lambda promise: (promise.name in nearest, tests.p_value(promise, failed)))
    nearest_budget = min((budgets[k] for k in passed), default=None)

    def in_place(promise: Promise) -> str:
        return promise.words(candidates.measure, tested.counted).instead

    could = [] if nearest_budget is None else [f"{in_place(binding)} at a budget of {share(nearest_budget)}"]
    could += [
        f"{in_place(wider)} at {share(budgets[k])}"
        for wider, k in sorted(nearest.values(), key=lambda found: found[0].name != binding.name)
    ]
    known, groups = known_by(candidates.measure), tested.groups
    by_early = alone = ""
    if [promise.name for promise in promises] == [MeanLoss.name]:
        agrees = candidates.measure == "agreement"
        same, option = (
            ("agrees with itself", "agree=1 (--agree 100%)")
            if agrees
            else ("loses nothing", "max_loss=0 (--max-loss 0)")
        )
        by_early = " by answering early"
        alone = f". {instead_of} {same}, at its full cost: it is what {option} gives where nothing better is found"
    words, units = (
        binding.words(candidates.measure, tested.counted),
        units_text(tested.n, n_groups(groups), known),
    )
    return Infeasible(
        f"the {words.subject} stands in the way: {units} cannot show that {words.claim} at "
        f"{share(allowed)}{by_early}; what can be shown: {' or '.join(could) or 'nothing with so few'}. "
        f"More {f'{known} inputs' if groups is None else 'groups'} show more{alone}",
        binding=binding.name,
        nearest_budget=nearest_budget,
        nearest_limits={name: wider.limit for name, (wider, _) in nearest.items()},
    )


def _nearest(
    tests: FixedSequence, promises: Sequence[Promise], allowed: float
) -> dict[str, tuple[Promise, int]]:
    """Return, by its name, each promise with the least limit with which a policy passes, and the cheapest such policy.

    In steps of 0.1 points, the other promises as they are; without those promises whose limit alone does not help.
    """
    nearest = {}
    for place, promise in enumerate(promises):
        limits = np.arange(promise.limit, 1.0, 0.001).round(12).tolist()
        found = [[*promises[:place], promise.with_limit(limit), *promises[place + 1 :]] for limit in limits]
        least = bisect_left(found, True, key=lambda wider: tests.cheapest(wider, allowed) is not None)
        if least < len(limits) and (k := tests.cheapest(found[least], allowed)) is not None:
            nearest[promise.name] = found[least][place], k
    return nearest
