"""Policies that are an allocation each: EERO, MSDNet's rule, Predictive Exit's, and EERO's rates at random."""

from __future__ import annotations

from typing import Any

from exeunt import allocation
from exeunt._arrays import Floats
from exeunt.allocation import Spend
from exeunt.calibration import Calibration, Slack
from exeunt.policies.answering import AnswerChoice, answering
from exeunt.policies.compose import compose, refuse_score
from exeunt.policy import Policy
from exeunt.score.kinds import ConstantScore, Score
from exeunt.trace import ExitTrace

__all__ = ["eero", "msdnet", "predictive_exit", "random_routing"]


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
    is right more often within the budget, cross-validated on `fit`.

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
def random_routing(
    fit: ExitTrace, calibrate: ExitTrace, *, budget: float | str, temperature: float = 0.04, **options: Any
) -> Policy:
    """Send inputs to exits at random, at EERO's rates: the baseline that shows what a score gains."""
    refuse_score("random_routing", options)
    risk = fit.risk
    return compose(
        "random_routing",
        lambda amount: allocation.exponential_weights(
            risk, fit.cost, amount, temperature=temperature, spend="exactly"
        ),
        fit,
        calibrate,
        budget=budget,
        score=ConstantScore(),
        **options,
    )
