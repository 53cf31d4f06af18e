"""The paper's claims, answered yes or no with the numbers that decide.

Each function returns a JSON-able dict with `claim`, `answer` ("yes" or "no"), `why` in a sentence, and the
numbers. An answer about a difference counts a budget as won or lost only where the 95 % interval over
inputs excludes zero; it is yes if something is won and nothing is lost.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from replay import CERTIFIED, MARGINAL, MARGINAL_RIVALS, RIVALS, SEQUENTIAL, Comparison, Gain

if TYPE_CHECKING:
    import exeunt as ex

NEGLIGIBLE = 1e-12  # of the budget: rounding in a mean


def all_claims(found: Comparison) -> list[dict[str, Any]]:
    """Return every claim's answer, for the paper's calibration and for the sequential one."""
    return [
        *(never_overspends(found, name) for name in (MARGINAL, SEQUENTIAL, CERTIFIED)),
        *(beats_single_exits(found, name) for name in (SEQUENTIAL, MARGINAL)),
        *(beats_rival(found, SEQUENTIAL, rival) for rival in RIVALS),
        *(beats_rival(found, MARGINAL, MARGINAL_RIVALS[rival]) for rival in RIVALS),
        deeper_is_not_always_better(found.trace),
        beats_rival(found, SEQUENTIAL, MARGINAL),  # not the paper's claim: what the calibration is worth
    ]


def never_overspends(found: Comparison, name: str) -> dict[str, Any]:
    """Ask whether the test part ever cost more than was allowed."""
    table = found.frontier
    spend = table.mean_cost[table.names.index(name)]
    feasible = np.isfinite(spend).all(axis=1)
    over = spend[feasible] / table.budgets[feasible, None] - 1
    above = over > NEGLIGIBLE
    on_average = over.mean(axis=1)
    return {
        "claim": f"{name}: the spend never exceeds the budget",
        "answer": "no" if above.any() else "yes",
        "why": (
            f"over in {above.sum()} of {above.size} cases ({feasible.sum()} budgets, {spend.shape[1]} splits), by "
            f"{over.max():+.2%} of the budget at most; mean over the splits between {on_average.min():+.1%} and "
            f"{on_average.max():+.2%}"
        ),
        "overspent_share": float(above.mean()),
        "worst_over": float(over.max()),
        "mean_over_per_budget": on_average.tolist(),
        "budgets": table.budgets[feasible].tolist(),
    }


def beats_single_exits(found: Comparison, name: str) -> dict[str, Any]:
    """Compare with the exits alone at equal spend, at each budget that leaves a choice."""
    gains = {share: found.against_exits(name, q) for q, share in _inner(found)}
    return _about_gains(f"{name}: beats every single exit at equal spend", gains)


def beats_rival(found: Comparison, name: str, rival: str) -> dict[str, Any]:
    """Compare with another policy at equal spend."""
    gains = {share: found.against(name, rival, q) for q, share in _inner(found)}
    return _about_gains(f"{name}: beats {rival} at equal spend", gains)


def _inner(found: Comparison) -> list[tuple[int, float]]:
    """Return (place, share of the full cost) of the budgets but the first and last, which leave no choice."""
    table = found.frontier
    return [(q, float(table.budgets[q] / table.cost.full)) for q in range(1, len(table.budgets) - 1)]


def deeper_is_not_always_better(trace: ex.ExitTrace) -> dict[str, Any]:
    """Ask whether any exit errs more than one before it, over all inputs; and input by input."""
    risk, right = trace.risk, trace.correct
    gains = {}
    for exit_ in range(1, trace.n_exits):
        best = int(np.argmin(risk[:exit_]))
        gains[exit_] = Gain.of(right[:, best].astype(float) - right[:, exit_])
    worse = [exit_ for exit_, gain in gains.items() if gain.mean > 0]
    surely = [exit_ for exit_ in worse if gains[exit_].sign > 0]
    best, last = int(np.argmin(risk)), trace.n_exits - 1
    lost = float((right.any(axis=1) & ~right[:, -1]).mean())
    return {
        "claim": "deeper exits are not always better",
        "answer": "yes" if surely else "no",
        "why": (
            f"{len(worse)} of {last} exits err more than one before them ({len(surely)} beyond chance); the best is "
            f"exit {best} of 0 to {last} with {1 - risk[best]:.4f}, the last has {1 - risk[-1]:.4f}; {lost:.1%} of "
            "the inputs are right at an earlier exit and wrong at the last"
        ),
        "worse_than_an_earlier": worse,
        "beyond_chance": surely,
        "best_exit": best,
        "right_earlier_wrong_last": lost,
        "best_earlier_minus_exit": {str(exit_): asdict(gain) for exit_, gain in gains.items()},
    }


def _about_gains(claim: str, found: dict[float, Gain | None]) -> dict[str, Any]:
    gains = {share: gain for share, gain in found.items() if gain is not None}
    won = sum(gain.sign > 0 for gain in gains.values())
    lost = sum(gain.sign < 0 for gain in gains.values())
    means = [gain.mean for gain in gains.values()]
    return {
        "claim": claim,
        "answer": "yes" if won and not lost else "no",
        "why": (
            f"better at {won} of {len(gains)} budgets, worse at {lost}, undecided at {len(gains) - won - lost}; "
            f"difference {100 * min(means):+.2f} to {100 * max(means):+.2f} points, "
            f"{100 * float(np.mean(means)):+.2f} on average"
        ),
        "gains": {f"{share:.6f}": asdict(gain) for share, gain in gains.items()},
    }
