"""Patience: PABEE answers once several exits in a row agree, PCEE once several in a row are confident."""

from __future__ import annotations

from typing import Any

from exeunt.errors import InputError
from exeunt.policies.answering import answering
from exeunt.policies.compose import compose, refuse_score
from exeunt.policies.main_confidence import MainConfidence
from exeunt.policies.rate_path import shift_path
from exeunt.policy import Policy
from exeunt.score.kinds import ConfidentPatience, Patience, Score
from exeunt.trace import ExitTrace, check_disjoint
from exeunt.trace.scoring import score_matrix

__all__ = ["confident_patience", "patience"]


@answering
def patience(fit: ExitTrace, calibrate: ExitTrace, *, budget: float | str, **options: Any) -> Policy:
    """PABEE: answer once some number of exits in a row agree (Zhou et al. 2020). Needs no labels.

    Inputs are split at random between two neighbouring numbers, so that the budget is met. The options are those of
    `compose` except the score.
    """
    refuse_score("patience", options)
    return _common("patience", Patience(), fit, calibrate, budget=budget, **options)


@answering
def confident_patience(
    fit: ExitTrace,
    calibrate: ExitTrace,
    *,
    budget: float | str,
    score: str | Score | None = None,
    patience: int = 2,
    **options: Any,
) -> Policy:
    """PCEE: answer once `patience` exits in a row are confident beyond a threshold, tuned to the budget.

    `score`: the confidence; needs no labels. Raises InputError for a patience below 1.
    """
    if patience < 1:
        raise InputError(f"patience must be at least 1 exit, got {patience}")
    main = MainConfidence.of(fit, score)
    rule = main.under(ConfidentPatience(main.name, patience))
    return _common("confident_patience", rule, fit, calibrate, budget=budget, **options)


def _common(
    name: str, rule: Score, fit: ExitTrace, calibrate: ExitTrace, *, budget: float | str, **options: Any
) -> Policy:
    """Return the policy of one threshold on this score for all exits."""
    check_disjoint(fit, calibrate)
    path = shift_path(score_matrix(rule, fit), fit.cost.cumulative)
    return compose(name, path, fit, calibrate, budget=budget, score=rule, **options)
