"""The statistics of a comparison: means over splits with 95 % t intervals, differences paired by split.

The parts of different splits overlap, so the intervals describe the spread of this procedure on this trace rather
than what new data would give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt.arena.overall import overspent_share
from exeunt.frontier import mean_interval, overspends

if TYPE_CHECKING:
    from exeunt._arrays import Floats
    from exeunt.arena.result import Comparison, TraceResult

__all__ = ["none_for_nan", "point_rows", "trace_statistics"]


def point_rows(comparison: Comparison) -> list[dict[str, Any]]:
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


def trace_statistics(comparison: Comparison, trace: TraceResult) -> dict[str, Any]:
    """Return what the report shows of one trace (see `Arena.to_dict`)."""
    mean, low, high = mean_interval(trace.exits[-1])
    return {
        "name": trace.name,
        "n": trace.n,
        "parts": dict(zip(("fit", "calibrate", "test"), trace.parts.astype(int).tolist(), strict=True)),
        "exits": trace.cost.n_exits,
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


def _policy(comparison: Comparison, trace: TraceResult, p: int) -> dict[str, Any]:
    one, every = trace.seconds[p].tolist()
    return {
        "name": comparison.policies[p],
        "fit_seconds": one,
        "fit_seconds_all_budgets": every,
        "points": [none_for_nan(_point(comparison, trace, p, q)) for q in range(len(trace.amounts))],
    }


def _point(comparison: Comparison, trace: TraceResult, p: int, q: int) -> dict[str, Any]:
    """Return one policy at one budget; where it was infeasible on some splits, the others speak alone."""
    there = ~np.isnan(trace.accuracy[p, q])
    spend = trace.spend[p, q, there]
    gains = trace.accuracy[p, q] - trace.accuracy[comparison.policies.index(comparison.reference), q]
    return {
        "budget": float(trace.shares[q]),
        **_interval("accuracy", trace.accuracy[p, q, there]),
        **_interval("spend", spend / trace.cost.full),
        "overspent": int(overspends(spend, float(trace.amounts[q])).sum()),
        "of": int(there.sum()),
        **_interval("gain", gains[~np.isnan(gains)]),
        "rates": trace.rates[p, q].tolist(),
    }


def _oracle(trace: TraceResult) -> list[dict[str, float]]:
    return [
        {"budget": float(share), **_interval("accuracy", accuracy)}
        for share, accuracy in zip(trace.shares, trace.oracle, strict=True)
    ]


def _mixture(trace: TraceResult) -> list[dict[str, float]]:
    accuracy, spend = trace.mixture_accuracy.mean(axis=-1), trace.mixture_spend.mean(axis=-1)
    return [
        {"budget": float(share), "accuracy": float(right), "spend": float(spent / trace.cost.full)}
        for share, right, spent in zip(trace.shares, accuracy, spend, strict=True)
    ]


def _exit_points(trace: TraceResult) -> list[dict[str, Any]]:
    costs = trace.cost.cumulative / trace.cost.full
    return [
        none_for_nan({"cost": float(cost), **_interval("accuracy", accuracy)})
        for cost, accuracy in zip(costs, trace.exits, strict=True)
    ]


def _interval(name: str, values: Floats) -> dict[str, float]:
    mean, low, high = mean_interval(values) if len(values) else (float("nan"),) * 3
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def none_for_nan(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with None for NaN, which JSON has no word for."""
    return {
        name: [none_for_nan({"": item})[""] for item in value] if isinstance(value, list) else _known(value)
        for name, value in row.items()
    }


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and np.isnan(value) else value
