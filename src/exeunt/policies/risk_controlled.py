"""One common threshold whose loss of accuracy is controlled: RC-EENN (Jazbec et al. 2024)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, TypeAlias

import numpy as np

from exeunt import _arrays
from exeunt._arrays import Floats
from exeunt._text import counted
from exeunt.calibration import ALWAYS, NEVER, Thresholds
from exeunt.errors import Infeasible, InputError
from exeunt.p_values import betting, hoeffding_bentkus
from exeunt.policies.answering import AnswerChoice, Chosen, answering, chosen
from exeunt.policies.common_threshold import common_threshold
from exeunt.policies.loss_certificate import LossCertificate
from exeunt.policy import Policy
from exeunt.score.kinds import Score
from exeunt.score.tie_breaking import tie_breaks
from exeunt.trace import ExitTrace, check_disjoint
from exeunt.trace.scoring import as_score, score_matrix

__all__ = ["risk_controlled"]

Method: TypeAlias = Literal["learn_then_test", "ucb"]


@answering
def risk_controlled(
    fit: ExitTrace,
    calibrate: ExitTrace,
    *,
    budget: float | str | None = None,
    max_loss: float | None = None,
    delta: float | None = 0.05,
    method: Method = "learn_then_test",
    score: str | Score | None = None,
    seed: int = 0,
    answer: AnswerChoice = "own",
    **options: Any,
) -> Policy:
    """One threshold for all exits, the lowest whose loss of accuracy is shown to be within `max_loss`.

    Thresholds are tried from the surest down, on labelled `calibrate`; the first that cannot be shown at level
    `delta` ends it. `method`: "learn_then_test" tests the loss itself by betting, "ucb" bounds from above the
    share of inputs that get worse (Hoeffding-Bentkus). With `budget` instead of `max_loss` this is
    `common_threshold`, under its own name: the risk level is then whatever the budget buys.

    Raises InputError unless exactly one of `budget` and `max_loss` is given, and for a `max_loss` without a `delta`;
    Infeasible where no threshold passes.
    """
    if method not in ("learn_then_test", "ucb"):
        raise InputError(f"method must be 'learn_then_test' or 'ucb', got {method!r}")
    if budget is not None and max_loss is None:
        policy = common_threshold(
            fit, calibrate, budget=budget, score=score, delta=delta, seed=seed, answer=answer, **options
        )
        return replace(policy, name="risk_controlled")
    if budget is not None or max_loss is None:
        raise InputError("give either a budget or a max_loss to risk_controlled")
    if delta is None:
        raise InputError("a max_loss is a guarantee: give a delta between 0 and 1, got None")
    return _within_loss(fit, calibrate, max_loss, delta, method, score, seed, chosen(answer))


def _within_loss(
    fit: ExitTrace,
    calibrate: ExitTrace,
    max_loss: float,
    delta: float,
    method: Method,
    score: str | Score | None,
    seed: int,
    answer: Chosen,
) -> Policy:
    _arrays.check_between(max_loss, "max_loss", 0.0, 1.0)
    _arrays.check_between(delta, "delta", 0.0, 1.0)
    check_disjoint(fit, calibrate)
    scores, right = score_matrix(score, calibrate), calibrate.correct.astype(np.float64)
    last = answer.own.correct[:, -1].astype(np.float64)
    # A random order, as the betting test needs: one that has nothing to do with the losses.
    order = np.argsort(tie_breaks(calibrate.id, seed))
    scores, right, last = scores[order], right[order], last[order]
    chosen = None
    for threshold in _tried(score_matrix(score, fit)):
        leaves = _leaves(scores, threshold)
        loss = last - right[np.arange(len(right)), leaves.argmax(axis=1)]
        p = (
            hoeffding_bentkus(np.maximum(loss, 0), max_loss)
            if method == "ucb"
            else betting(loss, max_loss, delta=delta)
        )
        if p > delta:
            break
        chosen = (threshold, leaves, p, float(loss.mean()))
    if chosen is None:
        raise Infeasible(
            f"{counted(calibrate.n, 'labelled input')} cannot show a loss within {max_loss:g} at delta={delta:g}: "
            "give more of them, or allow more loss",
            binding="max_loss",
        )
    threshold, leaves, p, mean = chosen
    m = calibrate.n_exits
    counts = np.bincount(leaves.argmax(axis=1), minlength=m)
    rates = counts / calibrate.n
    limits = Thresholds.of([(threshold, ALWAYS)] * (m - 1) + [(ALWAYS, ALWAYS)])
    if threshold == NEVER:
        limits = Thresholds.of([(NEVER, NEVER)] * (m - 1) + [(ALWAYS, ALWAYS)])
    policy = Policy(
        name="risk_controlled",
        score=as_score(score, calibrate),
        rates=rates,
        limits=limits,
        cost=calibrate.cost,
        budget=float(rates @ calibrate.cost.cumulative),
        calibration="risk",
        n_calibration=calibrate.n,
        seed=seed,
        counts=counts,
        answer=answer.answer,
    )
    return LossCertificate(max_loss, delta, p, method, mean, calibrate.n).on(policy)


def _tried(scores: Floats) -> Floats:
    """Return thresholds from "never" down: fixed before a calibration input is seen."""
    values = np.sort(scores[:, :-1], axis=None)
    if len(values) == 0:
        return np.array([NEVER])
    picked = values[np.linspace(0, len(values) - 1, 100).astype(np.int64)]
    return np.concatenate([[NEVER], np.unique(picked)[::-1]])


def _leaves(scores: Floats, threshold: float) -> _arrays.Booleans:
    return np.pad(scores[:, :-1] >= threshold, ((0, 0), (0, 1)), constant_values=True)
