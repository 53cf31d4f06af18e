"""What every policy is made by: a score, an allocation, a calibration and an answer put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from exeunt._arrays import Floats, check_between
from exeunt.calibration import Calibration, Slack, by_quantile, checked_rates, in_turn
from exeunt.errors import InputError
from exeunt.external_calibration import ranked
from exeunt.policies.answering import AnswerChoice, answering, chosen
from exeunt.policy import Policy
from exeunt.policy.cost_certificate import SMALLEST_DELTA, certify, plan_cost, reachable_distribution
from exeunt.policy.cost_per_input import plan_by_cost
from exeunt.score.kinds import Score
from exeunt.score.tie_breaking import distinct_tie_breaks
from exeunt.trace import ExitTrace, StoredTrace, check_disjoint
from exeunt.trace.scoring import as_score, score_matrix

__all__ = ["compose", "refuse_score"]


@answering
def compose(
    name: str,
    allocate: Callable[[float], Floats],
    fit: ExitTrace,
    calibrate: ExitTrace | StoredTrace,
    *,
    budget: float | str,
    score: str | Score | None = None,
    calibration: Calibration = "sequential",
    delta: float | None = None,
    slack: Slack = None,
    seed: int = 0,
    answer: AnswerChoice = "own",
) -> Policy:
    """Make a policy of an allocation (budget -> rates (m,)), a score, a calibration and an answer.

    This is how to plug in an idea of your own; the other policies are made of it. `allocate` must return
    shares that sum to 1 and whose mean cost is at most the budget it is called with. `answer`: as for `eero`.
    `calibrate`: a `StoredTrace` where it does not fit in memory; the policy is the same.
    """
    check_disjoint(fit, calibrate)
    answer = chosen(answer)
    cost = fit.cost
    amount = cost.budget(budget)
    rule = as_score(score, fit)
    common: dict[str, Any] = {
        "name": name, "score": rule, "cost": cost.means, "budget": amount, "calibration": calibration,
        "n_calibration": calibrate.n, "seed": seed, "answer": answer.answer,
    }  # fmt: skip
    if calibration == "marginal":
        if delta is not None:
            raise InputError(
                "marginal calibration has no exact distribution to certify: use calibration='sequential'"
            )
        rates = checked_rates(allocate(amount), cost.n_exits)
        with ranked(rule, calibrate, seed, np.flatnonzero(rates > 0)[:-1].tolist()) as inputs:
            limits = by_quantile(inputs, rates, slack)
            counts = inputs.counts(limits)
        return Policy(rates=rates, limits=limits, counts=counts, **common)
    if calibration != "sequential":
        raise InputError(f"calibration must be 'sequential' or 'marginal', got {calibration!r}")
    if slack is not None:
        raise InputError(
            f"slack={slack!r} belongs to calibration='marginal'; sequential calibration needs none"
        )
    if delta is not None:
        check_between(delta, "delta", SMALLEST_DELTA, 1.0)
    if cost.varies and isinstance(calibrate, ExitTrace):  # a StoredTrace's never do
        ties = distinct_tie_breaks(calibrate.id, seed)
        of_calibration = (score_matrix(rule, calibrate), ties, calibrate.id, calibrate.cost)
        return Policy(**common | plan_by_cost(allocate, cost, amount, of_calibration, delta, seed))
    plan = plan_cost(allocate, cost, amount, calibrate.n, delta)
    with ranked(rule, calibrate, seed, np.flatnonzero(plan.counts[: plan.last]).tolist()) as inputs:
        limits = in_turn(inputs, plan.counts, plan.last)
    return Policy(
        rates=plan.rates,
        limits=limits,
        counts=plan.counts,
        distribution=reachable_distribution(plan, cost),
        certificate=None if delta is None else certify(plan, cost, amount, delta),
        **common,
    )


def refuse_score(name: str, options: dict[str, Any]) -> None:
    """Raise InputError for a choice of score where the rule is one itself."""
    if "score" in options:
        raise InputError(f"{name} has a score of its own: leave out score={options['score']!r}")
