"""What a policy is worth over all traces and budgets together, and whether certified ones keep their promise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import binomtest

from exeunt.frontier import mean_interval, overspends

if TYPE_CHECKING:
    from exeunt._arrays import Floats
    from exeunt.arena.result import Comparison, TraceResult

__all__ = ["CHOOSER", "Promise", "overall_rows", "overspent_share", "promises"]

CHOOSER = "auto"  # chooses among the others, so it is measured against the best of them


def overall_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return one row per policy. A cell is a trace x budget; those a policy cannot serve on every split are left out.

    `mean_gain` over the reference: its mean over the cells of a split, with a t interval over splits. `mean_shortfall`:
    how far it lies below the best single policy of each cell, on average; negative for `auto` where it beats all
    that it chooses among. `worst_...`: of one cell. `fit_seconds`: for one budget, mean over the traces.
    """
    accuracy, over, feasible = _cells(comparison)
    mean = accuracy.mean(axis=-1)  # NaN where a policy cannot serve
    single = np.array([name != CHOOSER for name in comparison.policies])
    rows = []
    for p, name in enumerate(comparison.policies):
        gains = accuracy[p] - accuracy[comparison.policies.index(comparison.reference)]
        gains = gains[~np.isnan(gains).any(axis=-1)]
        gain, low, high = mean_interval(gains.mean(axis=0)) if len(gains) else (float("nan"),) * 3
        below = _best(mean[single if single.any() else ~single]) - mean[p]
        below = below[~np.isnan(below)]
        rows.append({
            "policy": name,
            "mean_gain": gain, "gain_low": low, "gain_high": high,
            "worst_gain": _extreme(gains.mean(axis=-1), np.min),
            "mean_shortfall": _extreme(below, np.mean),
            "worst_shortfall": _extreme(below, np.max),
            "overspent": int(over[p].sum()), "of": int(feasible[p].sum()),
            "fit_seconds": float(np.mean([trace.seconds[p, 0] for trace in comparison.traces])),
        })  # fmt: skip
    return rows


def _cells(comparison: Comparison) -> tuple[Floats, Floats, Floats]:
    """Return accuracy, whether the budget was overspent, and whether it was feasible, each (p, cells, s)."""
    accuracy = np.concatenate([trace.accuracy for trace in comparison.traces], axis=1)
    over = np.concatenate([_overspent(trace) for trace in comparison.traces], axis=1)
    return accuracy, over, ~np.isnan(accuracy)


class Promise(NamedTuple):
    """How often one policy overspent one budget of one trace, and how likely that is if its promise holds."""

    trace: str
    policy: str
    budget: float
    overspent: int
    of: int
    p_value: float


def promises(comparison: Comparison, delta: float) -> tuple[list[Promise], float]:
    """Return every certified cell, the most suspicious first, and the p-value of the worst, for all of them.

    A certificate speaks of the mean cost in the long run; a test part adds its own sampling. Over disjoint random
    parts both vary by the same variance per input, so a promise that is just kept is overspent on a share
    Phi(-z / sqrt(1 + calibrate / test)) of splits, z the normal quantile of 1 - delta. Counts are held against a
    binomial law of that share, one-sided, and the smallest p-value is multiplied by the number of cells
    (Bonferroni). Parts of different splits overlap, so the counts vary more than the law says: a small p-value
    is a reason to look again, not a proof.
    """
    found = []
    for trace in comparison.traces:
        over, feasible = _overspent(trace), ~np.isnan(trace.accuracy)
        share = overspent_share(trace, delta)
        for p, policy in enumerate(comparison.policies):
            for q, budget in enumerate(trace.shares):
                k, n = int(over[p, q].sum()), int(feasible[p, q].sum())
                if n:
                    p_value = float(binomtest(k, n, share, alternative="greater").pvalue)
                    found.append(Promise(trace.name, policy, float(budget), k, n, p_value))
    found.sort(key=lambda promise: promise.p_value)
    worst = min(found[0].p_value * len(found), 1.0) if found else 1.0
    return found, worst


def overspent_share(trace: TraceResult, delta: float) -> float:
    """Return the share of test parts that may overspend though the promise is kept (see `promises`)."""
    _, calibrate, test = trace.parts
    return float(ndtr(ndtri(delta) / (1 + calibrate / test) ** 0.5))


def _overspent(trace: TraceResult) -> Floats:
    spend = np.nan_to_num(trace.spend, nan=-np.inf)  # what is infeasible is not overspent
    return np.stack([overspends(spend[:, q], amount) for q, amount in enumerate(trace.amounts)], axis=1)


def _best(mean: Floats) -> Floats:
    """Return the best (cells,) of the policies that can serve; NaN where none can."""
    best: Floats = np.nan_to_num(mean, nan=-np.inf).max(axis=0)
    best[np.isneginf(best)] = np.nan
    return best


def _extreme(values: Floats, of: Any) -> float:
    return float(of(values)) if len(values) else float("nan")
