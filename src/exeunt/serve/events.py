"""What the page shows: what there is to choose from, and once a second what happens."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from exeunt.serve.served_run import Served
    from exeunt.serve.settings import Settings
    from exeunt.serve.traffic import Counts, Traffic

__all__ = ["about", "snapshot"]

_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_MARKS = ("degraded", "expired", "refused", "errors")


def about(served: Served, settings: Settings) -> dict[str, Any]:
    """Return the budget, the policy that is active under it, and what there is to choose from, JSON-able.

    `full`: what shares of the budget are shares of.
    """
    opened, active = served.opened, served.active
    cost = opened.policies[active].cost
    policies = [
        {
            "name": name,
            "budget": one.budget,
            "expected_cost": one.expected_cost,
            "accuracy": opened.accuracy[name],
        }
        for name, one in opened.policies.items()
    ]
    return {
        "model": settings.model_name,
        "budget": served.most,
        "unit": cost.unit,
        "full": cost.reference,
        "policy": active,
        "policies": policies,
        "slo_ms": None if settings.slo_s is None else 1e3 * settings.slo_s,
        "slo_quantile": settings.slo_quantile,
        "tiers": dict(settings.tiers),
        "workers": settings.workers,
        "exit_names": opened.exit_names,
    }


def snapshot(served: Served, traffic: Traffic, now: float) -> dict[str, Any]:
    """Return what happened in the last ten seconds, and what is active, JSON-able; None where nothing is known.

    `latency_ms`: of requests, from their last byte. `spend`: per row, in `unit`, as `budget`, that of the policy in
    force, and `budget_most`, the one that was asked for. `exits_now`, `exits_plan`: shares per exit of the run, as
    `exit_names`. `policy`: active; `policy_most`: that would be without load; `policies`: names of all.
    `estimated_accuracy`: of the rows answered, from the traces on fit, less what is lost by those that were degraded or
    expired; `accuracy_most`: without load, under the policies that they named or else under `policy_most`.
    """
    opened = served.opened
    counts, elapsed = traffic.last_seconds(now)
    seconds = [one for one, *_ in counts.seconds]
    quantiles = (
        np.quantile(seconds, list(_QUANTILES.values())).tolist() if seconds else [None] * len(_QUANTILES)
    )
    rows = sum(counts.served.values())
    plan = opened.policies[served.active].rates
    exits_plan = [0.0] * len(opened.exit_names)
    for place, rate in zip(opened.places(served.active), plan.tolist(), strict=True):
        exits_plan[place] += rate
    return {
        "t": time.time(),
        "requests_per_s": len(seconds) / elapsed,
        "rows_per_s": rows / elapsed,
        "latency_ms": {
            name: None if value is None else 1e3 * value
            for name, value in zip(_QUANTILES, quantiles, strict=True)
        },
        "spend": counts.cost / rows if rows else None,
        "budget": opened.policies[served.active].budget,
        "budget_most": served.most,
        "unit": opened.unit,
        "exit_names": opened.exit_names,
        "exits_now": _exits_now(served, counts),
        "exits_plan": exits_plan,
        "policy": served.active,
        "policy_most": served.without_load,
        "policies": list(opened.policies),
        "estimated_accuracy": _accuracy_now(served, counts),
        "accuracy_most": _accuracy_without_load(served, counts),
        "queue_rows": traffic.waiting,
        **{f"{mark}_per_s": counts.marks[mark] / elapsed for mark in _MARKS},
    }


def _exits_now(served: Served, counts: Counts) -> list[float] | None:
    shares = np.zeros(len(served.opened.exit_names))
    for (_, exit_), count in counts.exits.items():
        if exit_ < len(shares):  # else it was answered by a run before, which had more
            shares[exit_] += count
    return (shares / shares.sum()).tolist() if shares.sum() else None


def _accuracy_without_load(served: Served, counts: Counts) -> float | None:
    most = served.opened.accuracy[served.without_load]
    others = sum(counts.served.values()) - sum(counts.own_served.values())
    right, known = _right(served, counts.own_served)
    if most is None or not (known or others):
        return most
    return (right + most * others) / (known + others)


def _accuracy_now(served: Served, counts: Counts) -> float | None:
    right, known = _right(served, counts.served)
    if not known:
        return None
    lost_at = served.opened.lost_at
    lost = sum(lost_at.get(where, 0.0) * rows for where, rows in counts.cut_short.items())
    return (right - lost) / known


def _right(served: Served, rows: Mapping[str, int]) -> tuple[float, int]:
    """Return how many of the rows, by policy, are right as estimated, and for how many there is an estimate."""
    accuracy = served.opened.accuracy
    known = [(share, count) for name, count in rows.items() if (share := accuracy.get(name)) is not None]
    return sum(share * count for share, count in known), sum(count for _, count in known)
