"""The policy that nobody regrets: chosen among several by cross-validation inside the fit part."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt import allocation, presets
from exeunt.errors import InputError
from exeunt.policies.correctness import learned_correctness
from exeunt.policies.memo import kept_with_trace
from exeunt.policies.optimised import optimised, optimised_paths
from exeunt.policies.rate_path import mean_of_paths
from exeunt.policies.stopping import stopping
from exeunt.trace import check_disjoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from exeunt._arrays import Floats
    from exeunt.policy import Policy
    from exeunt.trace import ExitTrace

__all__ = ["auto", "blend", "candidates"]

_AROUND = (0.9, 1.0, 1.1)
_REFERENCE = "blend"


def blend(
    fit: ExitTrace,
    calibrate: ExitTrace,
    *,
    budget: float | str,
    temperature: float = 0.04,
    share: float = 0.3,
    score: str | None = None,
    seed: int = 0,
    **options: Any,
) -> Policy:
    """`share` of EERO's rates and the rest of the optimised ones: the optimum, shrunk to what needs few labels."""
    check_disjoint(fit, calibrate)
    paths, risk = optimised_paths(fit, score, 6, seed), fit.risk

    def rates(amount: float) -> Floats:
        eero = allocation.exponential_weights(
            risk, fit.cost, amount, temperature=temperature, spend="exactly"
        )
        mixed: Floats = (1 - share) * mean_of_paths(paths, amount) + share * eero
        whole: Floats = mixed / mixed.sum()
        return whole

    return presets.compose("blend", rates, fit, calibrate, budget=budget, score=score, seed=seed, **options)


def candidates() -> dict[str, Callable[..., Policy]]:
    """Return what `auto` chooses among, by name, and `auto` itself."""
    return {
        "auto": auto,
        "blend": blend,
        "common_threshold": presets.common_threshold,
        "eero": presets.eero,
        "learned_correctness": learned_correctness,
        "msdnet": presets.msdnet,
        "optimised": optimised,
        "stopping": stopping,
    }


def auto(
    fit: ExitTrace,
    calibrate: ExitTrace,
    *,
    budget: float | str,
    folds: int = 3,
    caution: float = 0.5,
    seed: int = 0,
    **options: Any,
) -> Policy:
    """Return the policy that cross-validation inside `fit` finds best around this budget.

    Every candidate is fitted on all but one of the `folds` and measured on that one, at this budget and
    10 % to either side, with the budget met inside the fold. The reference, a blend of optimised and EERO's
    rates, gives way to a rule that beats it by more than `caution` standard errors. `policy.notes["auto"]` says
    what was chosen and by how much. The other options are those of `compose`.

    Raises InputError for fewer than 2 folds, or fewer labelled inputs than folds.
    """
    check_disjoint(fit, calibrate)
    amount = fit.cost.budget(budget)
    gains = _gains(fit, amount, folds, seed)
    chosen = max(gains, key=lambda name: gains[name][0] - caution * gains[name][1])
    policy = candidates()[chosen](fit, calibrate, budget=amount, seed=seed, **options)
    table = {name: {"gain": gain, "standard_error": error} for name, (gain, error) in gains.items()}
    notes = {
        **policy.notes,
        "auto": {"chosen": chosen, "reference": _REFERENCE, "folds": folds, "candidates": table},
    }
    return replace(policy, name="auto", notes=notes)


@kept_with_trace
def _gains(fit: ExitTrace, budget: float, folds: int, seed: int) -> dict[str, tuple[float, float]]:
    """Return each candidate's gain over the reference in accuracy, with its standard error."""
    rules = {name: rule for name, rule in candidates().items() if name != "auto"}
    parts = _folds(fit, folds, seed)
    cost = fit.cost
    budgets = sorted({min(max(budget * f, cost.first), cost.full) for f in _AROUND})
    right = {name: np.zeros(fit.n) for name in rules}
    for train, rows in parts:
        held = fit.take(rows)
        for name, rule in rules.items():
            for amount in budgets:
                exits = rule(train, held, budget=amount, seed=seed).route(held)
                right[name][rows] += held.correct[np.arange(held.n), exits] / len(budgets)
    differences = {name: values - right[_REFERENCE] for name, values in right.items()}
    return {name: (float(d.mean()), float(d.std() / max(fit.n, 1) ** 0.5)) for name, d in differences.items()}


@kept_with_trace
def _folds(fit: ExitTrace, folds: int, seed: int) -> list[tuple[ExitTrace, Any]]:
    """Return (the rest, rows of the fold) per fold; inputs with the same key are never parted.

    Kept, so that what is learned on a fold serves other budgets.
    """
    distinct, key_of = np.unique(fit.id, return_inverse=True)
    if folds < 2 or len(distinct) < folds:
        raise InputError(
            f"cross-validation needs at least 2 folds and as many inputs, got {folds} folds for {len(distinct)}"
        )
    fold_of = np.random.default_rng(seed).permutation(len(distinct))[key_of] % folds
    return [(fit.take(fold_of != fold), np.flatnonzero(fold_of == fold)) for fold in range(folds)]
