"""Named policies. Each is one line of a table: a score, an allocation, a calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt import allocation
from exeunt._arrays import check_between
from exeunt.calibration import checked_rates, exits_under, marginal_thresholds, sequential_thresholds
from exeunt.errors import InputError
from exeunt.policies.answering import AnswerChoice, answering, chosen
from exeunt.policy import Policy
from exeunt.policy.cost_per_input import plan_by_cost
from exeunt.policy.spend_certificate import SMALLEST_DELTA, certify, plan_spend, reachable_law
from exeunt.score.tie_breaking import distinct_tie_breaks
from exeunt.trace import check_disjoint
from exeunt.trace.scoring import as_score, score_matrix

if TYPE_CHECKING:
    from collections.abc import Callable

    from exeunt._arrays import Floats
    from exeunt.allocation import Spend
    from exeunt.calibration import Calibration, Slack
    from exeunt.score.kinds import Score
    from exeunt.trace import ExitTrace

__all__ = ["common_threshold", "compose", "eero", "msdnet", "predictive_exit"]


@answering
def eero(
    fit: ExitTrace,
    calibrate: ExitTrace,
    *,
    budget: float | str,
    temperature: float = 0.04,
    spend: Spend = "exactly",
    score: str | Score | None = None,
    calibration: Calibration = "sequential",
    delta: float | None = None,
    slack: Slack = None,
    seed: int = 0,
    answer: AnswerChoice = "own",
) -> Policy:
    """EERO: rates by exponential weights on the exits' risks (Prop. 3.8).

    `fit` (labelled) gives the risks, `calibrate` (labels not needed) the thresholds; they must not overlap.
    `budget`: mean cost per input in the unit of the costs, or "50%", or "30 MMACs".
    `score`: by default "margin", or the trace's only score.
    `calibration="marginal"` with `slack` "paper" (its default), a number, or 0 is the paper's Algorithm 1.
    With `delta` the policy carries a certificate P(mean cost <= budget) >= 1 - delta.
    `answer`: "own", each exit's own, as in the paper; "pooled", what all exits asked so far say together; "auto", what
    cross-validation on `fit` finds better.

    Raises InputError for parts that overlap or are empty, InfeasibleBudget for a budget that cannot be met or
    certified.
    """
    risk = fit.risk

    def rates(amount: float) -> Floats:
        return allocation.exponential_weights(risk, fit.cost, amount, temperature=temperature, spend=spend)

    return compose(
        "eero", rates, fit, calibrate, budget=budget, score=score, calibration=calibration, delta=delta,
        slack=slack, seed=seed, answer=answer,
    )  # fmt: skip


@answering
def msdnet(fit: ExitTrace, calibrate: ExitTrace, *, budget: float | str, **options: Any) -> Policy:
    """MSDNet's rule: geometric rates. The options are those of `compose`."""
    return compose(
        "msdnet",
        lambda amount: allocation.geometric(fit.cost, amount),
        fit,
        calibrate,
        budget=budget,
        **options,
    )


@answering
def predictive_exit(
    fit: ExitTrace, calibrate: ExitTrace, *, budget: float | str, sigma: float = 2.0, **options: Any
) -> Policy:
    """Predictive Exit's rule: Gaussian rates of width `sigma` exits. The options are those of `compose`."""
    return compose(
        "predictive_exit",
        lambda amount: allocation.gaussian(fit.cost, amount, sigma=sigma),
        fit,
        calibrate,
        budget=budget,
        **options,
    )


@answering
def common_threshold(
    fit: ExitTrace,
    calibrate: ExitTrace,
    *,
    budget: float | str,
    score: str | Score | None = None,
    seed: int = 0,
    **options: Any,
) -> Policy:
    """One confidence threshold for all exits, tuned to the budget on the fit inputs.

    Its shares are then calibrated like any others, so that the thresholds release them exactly and can be
    certified; they agree with the common one up to sampling. Needs no labels.
    """
    scores = score_matrix(score, fit)
    # The most that an input showed up to each exit: with threshold t it leaves where this first reaches t.
    best_so_far = np.maximum.accumulate(scores[:, :-1], axis=1)

    def rates(amount: float) -> Floats:
        return _common_threshold_rates(best_so_far, fit.cost.cumulative, amount)

    return compose(
        "common_threshold", rates, fit, calibrate, budget=budget, score=score, seed=seed, **options
    )


@answering
def compose(
    name: str,
    allocate: Callable[[float], Floats],
    fit: ExitTrace,
    calibrate: ExitTrace,
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

    This is how to plug in an idea of your own; the presets above are made of it. `allocate` must return
    shares that sum to 1 and whose mean cost is at most the budget it is called with. `answer`: as for `eero`.
    """
    check_disjoint(fit, calibrate)
    answer = chosen(answer)
    cost = fit.cost
    amount = cost.budget(budget)
    rule = as_score(score, fit)
    scores, ties = score_matrix(rule, calibrate), distinct_tie_breaks(calibrate.id, seed)
    common: dict[str, Any] = {
        "name": name, "score": rule, "cost": cost.means, "budget": amount, "calibration": calibration,
        "n_calibration": calibrate.n, "seed": seed, "answer": answer.answer,
    }  # fmt: skip
    if calibration == "marginal":
        if delta is not None:
            raise InputError("marginal calibration has no exact law to certify: use calibration='sequential'")
        rates = checked_rates(allocate(amount), cost.n_exits)
        limits = marginal_thresholds(scores, ties, rates, slack)
        counts = np.bincount(exits_under(scores, ties, limits), minlength=cost.n_exits)
        return Policy(rates=rates, limits=limits, counts=counts, **common)
    if calibration != "sequential":
        raise InputError(f"calibration must be 'sequential' or 'marginal', got {calibration!r}")
    if slack is not None:
        raise InputError(
            f"slack={slack!r} belongs to calibration='marginal'; sequential calibration needs none"
        )
    if delta is not None:
        check_between(delta, "delta", SMALLEST_DELTA, 1.0)
    if cost.varies:
        of_calibration = (scores, ties, calibrate.id, calibrate.cost)
        return Policy(**common | plan_by_cost(allocate, cost, amount, of_calibration, delta, seed))
    plan = plan_spend(allocate, cost, amount, calibrate.n, delta)
    return Policy(
        rates=plan.rates,
        limits=sequential_thresholds(scores, ties, plan.counts, plan.last),
        counts=plan.counts,
        law=reachable_law(plan, cost),
        certificate=None if delta is None else certify(plan, cost, amount, delta),
        **common,
    )


def _common_threshold_rates(best_so_far: Floats, cost: Floats, budget: float) -> Floats:
    """Return the shares of the highest common threshold whose mean cost is within the budget."""
    n, m = len(best_so_far), len(cost)

    def shares(threshold: float) -> Floats:
        reached = (best_so_far >= threshold).sum(axis=0) / n
        leaving: Floats = np.diff(np.concatenate([reached, [1.0]]), prepend=0.0)
        return leaving

    values = np.unique(best_so_far)
    # Mean cost rises with the threshold; find the highest value that is affordable.
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if shares(values[middle]) @ cost <= budget else (low, middle)
    rates = shares(values[low]) if m > 1 and len(values) else np.eye(m)[0]
    if rates @ cost > budget:
        first: Floats = np.eye(m)[0]
        return first
    beyond = shares(values[high]) if high < len(values) else np.eye(m)[m - 1]
    # Mix with the next value up, so that the whole budget is planned.
    gap = (beyond - rates) @ cost
    share = min((budget - rates @ cost) / gap, 1.0) if gap > 0 else 0.0
    mixed: Floats = (1 - share) * rates + share * beyond
    return mixed
