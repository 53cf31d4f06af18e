"""The statistics of a comparison: per point, and over all points.

Means are over splits, with 95 % t intervals; differences are paired by split. The parts of different splits
overlap, so the intervals describe the spread of this procedure on this trace rather than what new data would give.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from exeunt._arrays import Floats
from exeunt.comparison.guarantees import overspent, overspent_share
from exeunt.comparison.one_split import none_for_nan
from exeunt.comparison.result import ComparisonResult, TraceResult
from exeunt.confidence_intervals import mean_interval, share_interval, spend_interval
from exeunt.frontiers import overspends

__all__ = ["CHOOSER", "overall_rows", "point_rows", "trace_statistics"]

CHOOSER = "auto"  # chooses among the others, so it is measured against the best of them


def point_rows(comparison: ComparisonResult) -> list[dict[str, Any]]:
    """Return one flat row per trace, policy and budget, and per budget of the oracle."""
    rows = []
    for trace in comparison.traces:
        for p, policy in enumerate(comparison.policies):
            points = [_point(comparison, trace, p, q) for q in range(len(trace.amounts))]
            rows += [{"trace": trace.name, "policy": policy, **point} for point in points]
        empty = dict.fromkeys(_point(comparison, trace, 0, 0))
        oracle = [{**empty, **point} for point in _oracle(trace)]
        rows += [{"trace": trace.name, "policy": "oracle", **point} for point in oracle]
    return rows


def trace_statistics(comparison: ComparisonResult, trace: TraceResult) -> dict[str, Any]:
    """Return what the report shows of one trace (see `ComparisonResult.to_dict`)."""
    mean, low, high = share_interval(trace.exits[-1])
    return {
        "name": trace.name,
        "n": trace.n,
        "parts": dict(zip(("fit", "calibrate", "test"), trace.parts.astype(int).tolist(), strict=True)),
        "exits": trace.cost.n_exits,
        "models": list(trace.models),
        "one_exit": trace.one_exit,
        "whole": trace.whole,
        "unit": trace.cost.unit,
        "full_cost": trace.cost.full,
        "full_accuracy": none_for_nan({"mean": mean, "low": low, "high": high}),
        "budgets": trace.shares.tolist(),
        "may_overspend": None if comparison.delta is None else overspent_share(trace, comparison.delta),
        "policies": [_policy(comparison, trace, p) for p in range(len(comparison.policies))],
        "oracle": [none_for_nan(point) for point in _oracle(trace)],
        "mixture": _mixture(trace),
        "exit_points": _exit_points(trace),
    }


def _policy(comparison: ComparisonResult, trace: TraceResult, p: int) -> dict[str, Any]:
    one, every = trace.seconds[p].tolist()
    return {
        "name": comparison.policies[p],
        "fit_seconds": one,
        "fit_seconds_all_budgets": every,
        "points": [none_for_nan(_point(comparison, trace, p, q)) for q in range(len(trace.amounts))],
    }


def _point(comparison: ComparisonResult, trace: TraceResult, p: int, q: int) -> dict[str, Any]:
    """Return one policy at one budget; where it was infeasible on some splits, only the other splits count."""
    feasible = ~np.isnan(trace.accuracy[p, q])
    spend = trace.spend[p, q, feasible]
    gains = trace.accuracy[p, q] - trace.accuracy[comparison.policies.index(comparison.reference), q]
    return {
        "budget": float(trace.shares[q]),
        **_interval("accuracy", trace.accuracy[p, q, feasible], share_interval),
        **_interval("spend", trace.cost.share(spend), spend_interval),
        "overspent": int(overspends(spend, float(trace.amounts[q])).sum()),
        "of": int(feasible.sum()),
        **_interval("gain", gains[~np.isnan(gains)]),
        "rates": trace.rates[p, q].tolist(),
    }


def _oracle(trace: TraceResult) -> list[dict[str, float]]:
    return [
        {"budget": float(share), **_interval("accuracy", accuracy, share_interval)}
        for share, accuracy in zip(trace.shares, trace.oracle, strict=True)
    ]


def _mixture(trace: TraceResult) -> list[dict[str, float]]:
    accuracy, spend = trace.mixture_accuracy.mean(axis=-1), trace.mixture_spend.mean(axis=-1)
    return [
        {"budget": float(share), "accuracy": float(right), "spend": float(trace.cost.share(spent))}
        for share, right, spent in zip(trace.shares, accuracy, spend, strict=True)
    ]


def _exit_points(trace: TraceResult) -> list[dict[str, Any]]:
    costs = trace.cost.share(trace.cost.cumulative)
    return [
        none_for_nan({"name": name, "cost": float(cost), **_interval("accuracy", accuracy, share_interval)})
        for name, cost, accuracy in zip(trace.exit_names, costs, trace.exits, strict=True)
    ]


def _interval(
    name: str, values: Floats, interval: Callable[[Floats], tuple[float, float, float]] = mean_interval
) -> dict[str, float]:
    mean, low, high = interval(values) if len(values) else (float("nan"),) * 3
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def overall_rows(comparison: ComparisonResult) -> list[dict[str, Any]]:
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
            "worst_gain": _or_nan(gains.mean(axis=-1), np.min),
            "mean_shortfall": _or_nan(below, np.mean),
            "worst_shortfall": _or_nan(below, np.max),
            "overspent": int(over[p].sum()), "of": int(feasible[p].sum()),
            "fit_seconds": float(np.mean([trace.seconds[p, 0] for trace in comparison.traces])),
        })  # fmt: skip
    return rows


def _cells(comparison: ComparisonResult) -> tuple[Floats, Floats, Floats]:
    """Return accuracy, whether the budget was overspent, and whether it was feasible, each (p, cells, s)."""
    accuracy = np.concatenate([trace.accuracy for trace in comparison.traces], axis=1)
    over = np.concatenate([overspent(trace) for trace in comparison.traces], axis=1)
    return accuracy, over, ~np.isnan(accuracy)


def _best(mean: Floats) -> Floats:
    """Return the best (cells,) of the policies that can serve; NaN where none can."""
    best: Floats = np.nan_to_num(mean, nan=-np.inf).max(axis=0)
    best[np.isneginf(best)] = np.nan
    return best


def _or_nan(values: Floats, of: Any) -> float:
    """Return a statistic of values, NaN of none."""
    return float(of(values)) if len(values) else float("nan")
