"""The literature's rules, to compare with: patience, confident patience, random routing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exeunt import allocation
from exeunt.errors import InputError
from exeunt.patience_score import ConfidentPatience, ConstantScore, Patience
from exeunt.policies.rate_path import shift_path
from exeunt.policy import score_matrix
from exeunt.presets import compose
from exeunt.trace import check_disjoint

if TYPE_CHECKING:
    from exeunt.policy import Policy
    from exeunt.scores import Score
    from exeunt.trace import ExitTrace

__all__ = ["confident_patience", "patience", "random_routing"]


def patience(fit: ExitTrace, calibrate: ExitTrace, *, budget: float | str, **options: Any) -> Policy:
    """PABEE: answer once some number of exits in a row agree (Zhou et al. 2020). Needs no labels.

    The number is mixed of two neighbouring ones, by the ties, so that the budget is met. The options are those
    of `compose` but for the score.
    """
    return _common("patience", Patience(), fit, calibrate, budget=budget, **options)


def confident_patience(
    fit: ExitTrace,
    calibrate: ExitTrace,
    *,
    budget: float | str,
    score: str | None = None,
    patience: int = 2,
    **options: Any,
) -> Policy:
    """PCEE: answer once `patience` exits in a row are confident beyond a threshold, tuned to the budget.

    `score` names the confidence; needs no labels. Raises InputError for a patience below 1.
    """
    if patience < 1:
        raise InputError(f"patience must be at least 1 exit, got {patience}")
    name = fit.default_score if score is None else score
    if name not in fit.scores:
        raise InputError(f"there is no score {name!r} in this trace; it has {sorted(fit.scores)}")
    rule = ConfidentPatience(name, patience)
    return _common("confident_patience", rule, fit, calibrate, budget=budget, **options)


def random_routing(
    fit: ExitTrace, calibrate: ExitTrace, *, budget: float | str, temperature: float = 0.04, **options: Any
) -> Policy:
    """Send inputs to exits by chance, at EERO's rates: what a score is worth shows against this."""
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


def _common(
    name: str, rule: Score, fit: ExitTrace, calibrate: ExitTrace, *, budget: float | str, **options: Any
) -> Policy:
    """Return the policy of one threshold on this score for all exits."""
    check_disjoint(fit, calibrate)
    path = shift_path(score_matrix(rule, fit), fit.cost.cumulative)
    return compose(name, path, fit, calibrate, budget=budget, score=rule, **options)
