"""One confidence threshold for all exits: tuned to a budget, or to a loss of accuracy (RC-EENN, Jazbec et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import numpy as np

from exeunt._support.arrays import Floats, Integers, check_between, check_delta
from exeunt.errors import Infeasible, InputError
from exeunt.guarantees.p_values import LOSS_BOUNDS
from exeunt.policy import LossCertificate, Policy
from exeunt.policy.allocation_search import common_threshold_path
from exeunt.policy.calibration import ALWAYS, NEVER, RankedInMemory, Thresholds
from exeunt.policy.compose import Composition, FitPart, composed
from exeunt.policy.ensemble_fitting import AnswerChoice, choose_answer, remark_on_labels
from exeunt.policy.watched_cells import cells_of_first_exit
from exeunt.score.kinds import Score
from exeunt.score.tie_breaking import tie_breaks
from exeunt.trace import ExitTrace, check_disjoint
from exeunt.trace.derived import as_score, score_matrix
from exeunt.trace.grades import check_measured_alike, known_by
from exeunt.trace.groups import counts_of, mean, n_groups, n_units, per_unit, units_text
from exeunt.trace.splitting import random_order

Method: TypeAlias = Literal["learn_then_test", "ucb"]

_BOUND_OF = {"learn_then_test": "betting", "ucb": "hoeffding_bentkus"}


@composed
def common_threshold(part: FitPart) -> Composition:
    """One confidence threshold for all exits.

    It is tuned to the budget on the fit inputs. Its shares are then calibrated like any others, so that the thresholds
    release them exactly and can be certified. They agree with the common one up to sampling. Needs no labels. It takes
    the arguments of all policies, see `compose`.
    """
    trace, score = part.scored
    scores = score_matrix(score, trace)
    return Composition(common_threshold_path(scores, trace.cost.cumulative, points=scores.size))


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
    """One threshold for all exits, set by risk control; certified, at delta 0.05 by default, so it costs less.

    It is the lowest threshold whose loss of accuracy is shown to be within `max_loss`. Thresholds are tried from the
    surest down, on labelled `calibrate`; the first that cannot be shown at level `delta` ends the search. `method`:
    "learn_then_test" tests the loss itself by betting, "ucb" bounds from above the share of inputs that get worse
    (Hoeffding-Bentkus). With `budget` instead of `max_loss` this is `common_threshold`, under its own name: the risk
    level is then whatever the budget buys.

    Raises InputError unless exactly one of `budget` and `max_loss` is given, and for a `max_loss` without a `delta`;
    Infeasible where no threshold passes.
    """
    if method not in _BOUND_OF:
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
    check_between(max_loss, "max_loss", 0.0, 1.0)
    check_delta(delta)
    check_disjoint(fit, calibrate)
    check_measured_alike(fit, calibrate)
    # The full network's own answers; a reference agrees with itself, also where it is no exit of the trace.
    best = 1.0 if calibrate.reference else calibrate.quality[:, -1]
    notes = remark_on_labels(fit)
    chosen, fit, calibrate = choose_answer(answer, fit, calibrate, score=score, amount=fit.cost.full)
    scores, groups = score_matrix(score, calibrate), calibrate.groups
    tested = _test(method, best, scores, calibrate, max_loss, delta, seed)
    threshold, proof = _lowest_passing(_tried(score_matrix(score, fit)), tested, calibrate)
    exits, m = _exits_at(threshold, scores), calibrate.n_exits
    counts = np.bincount(exits, minlength=m)
    rates = mean(np.eye(m)[exits], groups)
    paid = float(mean(calibrate.cost.of_inputs(calibrate.n)[np.arange(calibrate.n), exits], groups))
    least = (NEVER, NEVER) if threshold == NEVER else (threshold, ALWAYS)
    limits = Thresholds.of([least] * (m - 1) + [(ALWAYS, ALWAYS)])
    ranked = RankedInMemory(scores, tie_breaks(calibrate.keys("content"), seed))
    return Policy(
        name="risk_controlled",
        score=as_score(score, calibrate),
        rates=rates,
        limits=limits,
        cost=calibrate.cost,
        budget=paid,
        calibration="risk",
        n_calibration=calibrate.n,
        n_groups=n_groups(groups),
        seed=seed,
        counts=counts,
        calibration_cost=paid,
        loss_certificate=proof,
        notes=notes,
        answer=chosen,
        watched=cells_of_first_exit(ranked, limits, groups, seed),
    )


def _test(
    method: Method,
    best: float | Floats,
    scores: Floats,
    calibrate: ExitTrace,
    max_loss: float,
    delta: float,
    seed: int,
) -> Callable[[float], LossCertificate]:
    """Return the function that tests a threshold. `best`: quality of the answers that the loss is measured against."""
    groups, bound = calibrate.groups, LOSS_BOUNDS[_BOUND_OF[method]]
    order = random_order(n_units(calibrate.n, groups), seed)

    def tested(threshold: float) -> LossCertificate:
        loss = best - calibrate.quality[np.arange(calibrate.n), _exits_at(threshold, scores)]
        return LossCertificate(
            max_loss,
            delta,
            bound(per_unit(loss, groups, max_loss)[order], max_loss, delta),
            method,
            float(mean(loss, groups)),
            calibrate.n,
            calibrate.reference or None,
            **counts_of(groups),
            measure=calibrate.measure,
            of=calibrate.counted,
        )

    return tested


def _exits_at(threshold: float, scores: Floats) -> Integers:
    """Return the first exit at which the score is at least the threshold, (n,); the last takes all others."""
    leaves = np.pad(scores[:, :-1] >= threshold, ((0, 0), (0, 1)), constant_values=True)
    return np.asarray(leaves.argmax(axis=1))


def _lowest_passing(
    thresholds: Iterable[float], tested: Callable[[float], LossCertificate], calibrate: ExitTrace
) -> tuple[float, LossCertificate]:
    """Return the last threshold of a sequence before one fails its test. Raises Infeasible if the first fails."""
    passed = None
    for threshold in thresholds:
        proof = tested(threshold)
        if proof.p_value > proof.delta:
            break
        passed = threshold, proof
    if passed is None:
        units = units_text(calibrate.n, n_groups(calibrate.groups), known_by(calibrate.measure))
        raise Infeasible(
            f"{units} cannot show a loss within {proof.max_loss:g} at delta={proof.delta:g}: give more of them, or "
            "allow more loss",
            binding="max_loss",
        )
    return passed


def _tried(scores: Floats) -> Floats:
    """Return thresholds from "never" down: fixed before a calibration input is seen."""
    values = np.sort(scores[:, :-1], axis=None)
    if len(values) == 0:
        return np.array([NEVER])
    picked = values[np.linspace(0, len(values) - 1, 100).astype(np.int64)]
    return np.concatenate([[NEVER], np.unique(picked)[::-1]])
