"""What was certified for a gateway, measured on records that had no part in it, and what it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from exeunt._arrays import Floats
from exeunt._text import text_table
from exeunt.comparison.one_split import mixture_curve
from exeunt.confidence_intervals import mean_interval, weighted_interval
from exeunt.evaluation import evaluate
from exeunt.policies.candidates import lost_by
from exeunt.policy import Policy
from exeunt.trace import CascadeTrace
from exeunt.trace.groups import Groups, mean, units_text

Interval: TypeAlias = "tuple[float, float, float]"
"""Mean, low and high: a 95% interval."""


class Way(NamedTuple):
    """A way to answer: its mean grade, and its mean cost in US dollars per request."""

    name: str
    grade: float
    cost: float


@dataclass(frozen=True)
class Certification:
    """A certified policy, and what it is worth on `n` records that had no part in it, in `n_groups` groups if any.

    `shares`: of the requests, by the model that answers. `cost`, `reference_cost`: US dollars per request. `saved`:
    of the reference's cost, a share with its 95% interval; `loss` of the grade, `gain` over the same shares at random.
    `controls`: what one would do otherwise. `cost_interval`: 95%. `budget`: the mean cost that was asked for.
    """

    policy: Policy
    reference: str
    n: int
    n_groups: int | None
    shares: dict[str, float]
    grade: float
    reference_grade: float
    cost: float
    reference_cost: float
    saved: Interval
    loss: Interval
    gain: Interval
    controls: tuple[Way, ...]
    cost_interval: tuple[float, float]
    budget: float | None = None

    @property
    def ways(self) -> tuple[Way, ...]:
        """The policy, then what one would do otherwise."""
        return Way(f"this policy ({self.policy.name})", self.grade, self.cost), *self.controls

    @property
    def sentences(self) -> list[str]:
        """What is certified, and what was measured."""
        saved, loss, gain = self.saved, self.loss, self.gain
        measured = (
            f"Measured on {units_text(self.n, self.n_groups, 'held-out', 'input')}: {saved[0]:.1%} of the cost of "
            f"always asking {self.reference} is saved (95% interval {saved[1]:.1%} to {saved[2]:.1%}), "
            f"{100 * abs(loss[0]):.2f} points of the grade are {'gained' if loss[0] < 0 else 'lost'} (interval of the "
            f"loss {100 * loss[1]:.2f} to {100 * loss[2]:.2f}). What shadow and audits cost is not counted."
        )
        at_random = (
            f"The same shares at random would have a grade {100 * gain[0]:.2f} points lower "
            f"({100 * gain[1]:.2f} to {100 * gain[2]:.2f})."
        )
        answered = ", ".join(f"{name} {share:.1%}" for name, share in self.shares.items())
        proofs = [str(self.policy.loss_certificate), self._of_the_cost]
        return [*proofs, measured, at_random, f"Answered by: {answered}."]

    @property
    def _of_the_cost(self) -> str:
        """Whether the budget is certified, or what is expected."""
        if self.policy.cost_certificate is not None:
            return self.policy.guarantee
        cost, low, high = (f"{1000 * amount:.4g}" for amount in (self.cost, *self.cost_interval))
        expected = f"{cost} usd per 1,000 requests are expected (95% interval {low} to {high})"
        if self.budget is None:
            return f"The mean cost is not certified: {expected}. Give a budget to certify it."
        budget = f"{1000 * self.budget:.4g} usd per 1,000 requests"
        return (
            f"The budget of {budget} is not certified, which takes more records, or a lower maximum of what a request "
            f"can cost: {expected}."
        )

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return header and rows: the policy beside what one would do otherwise."""
        header = ["way to answer", "mean grade", "usd per 1,000", "of the reference's"]
        return header, [
            [one.name, f"{one.grade:.3f}", f"{1000 * one.cost:.4g}", f"{one.cost / self.reference_cost:.1%}"]
            for one in self.ways
        ]

    def __str__(self) -> str:
        return "\n".join([text_table(*self.table()), *self.sentences])

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers in JSON-able form, without the policy."""
        means = ("grade", "reference_grade", "cost", "reference_cost", "budget", "saved", "loss", "gain")
        return {
            **{name: getattr(self, name) for name in ("reference", "n", "n_groups", "shares", *means)},
            "controls": [one._asdict() for one in self.controls],
        }


def paid_for(policy: Policy, records: CascadeTrace) -> Floats:
    """Return what each record costs under a policy, (n,)."""
    costs = policy.priced(records).cost.of_inputs(records.n)
    return np.asarray(costs[np.arange(records.n), policy.route(records)])


def measured(
    policy: Policy, fit: CascadeTrace, held_out: CascadeTrace, reference: str, budget: float | None = None
) -> Certification:
    """Return what a policy is worth on held-out records, beside each model alone and two mixtures drawn by lot."""
    result, groups = evaluate(policy, held_out), held_out.groups
    shares = dict.fromkeys(held_out.answering.names, 0.0)
    for step, share in zip(policy.cascade, result.shares.tolist(), strict=True):
        if step.model in shares:
            shares[step.model] += share
    alone = {name: held_out[name] for name in shares}
    quality = np.hstack([one.quality for one in alone.values()])
    costs = np.hstack([one.cost.of_inputs(held_out.n) for one in alone.values()])
    paid = paid_for(policy, held_out)
    lost, of = lost_by(policy, held_out, reference), [*shares].index(reference)
    by_lot = quality @ np.array([*shares.values()])
    usual = float(mean(costs[:, of], groups))
    share = 1 - float(mean(paid, groups)) / usual
    # The share that is saved is a ratio of two means, whose error is that of these values.
    ratio = share + (costs[:, of] * (1 - share) - paid) / usual
    random_cost = float(mean(costs, groups) @ np.array([*shares.values()]))
    return Certification(
        policy=policy, reference=reference, n=held_out.n, n_groups=None if groups is None else groups.n,
        shares={name: shares[name] for name in sorted(shares, key=lambda one: -shares[one]) if shares[name]},
        grade=float(mean(quality[:, of] - lost, groups)),
        reference_grade=float(mean(quality[:, of], groups)), cost=result.cost, reference_cost=usual,
        cost_interval=result.cost_interval, budget=budget,
        saved=interval_of(ratio, groups), loss=interval_of(lost, groups),
        gain=interval_of(quality[:, of] - lost - by_lot, groups),
        controls=(
            *(
                Way(f"{name} alone", float(mean(quality[:, k], groups)), float(mean(costs[:, k], groups)))
                for k, name in enumerate(shares)
            ),
            Way("the same shares at random", float(mean(by_lot, groups)), random_cost),
            _best_pair(fit, held_out, [*shares], result.cost),
        ),
    )  # fmt: skip


def _best_pair(fit: CascadeTrace, held_out: CascadeTrace, names: Sequence[str], cost: float) -> Way:
    """Return the mixture of two models by lot, at about this cost, that is best on the records that fit."""
    by_cost = sorted(names, key=lambda name: fit[name].cost.full)
    fitted, found = (
        np.array([mean(part[name].quality[:, 0], part.groups) for name in by_cost])
        for part in (fit, held_out)
    )
    costs = np.array([fit[name].cost.full for name in by_cost])
    grade, spent = mixture_curve(costs, fitted, found, np.array([max(cost, costs[0])]))
    return Way("the best pair mixed at random", float(grade[0]), float(spent[0]))


def interval_of(values: Floats, groups: Groups | None) -> Interval:
    """Return the mean of values (n,) with its 95% t interval, over groups if there are any."""
    if groups is None:
        return mean_interval(values)
    found, ends = weighted_interval(groups.means(values), groups.weight, within=(-np.inf, np.inf))
    return found, *ends
