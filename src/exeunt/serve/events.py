"""What the page shows: the policies to choose from, and once a second what happens in the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np

from exeunt.serve.active_run import ActiveRun
from exeunt.serve.metrics import Counts
from exeunt.serve.recent import Recent
from exeunt.serve.settings import Settings

_PROBLEMS = ("degraded", "expired", "refused", "errors")


class EventStream:
    """Sends events to all who listen. A listener that is too slow misses some."""

    def __init__(self) -> None:
        self._next: asyncio.Future[dict[str, Any] | None] = asyncio.get_running_loop().create_future()

    def send(self, event: dict[str, Any]) -> None:
        """Send an event to all listeners."""
        if not self._next.done():  # else it is closed
            self._next.set_result(event)
            self._next = asyncio.get_running_loop().create_future()

    def close(self) -> None:
        """End the iteration of all listeners."""
        if not self._next.done():
            self._next.set_result(None)

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        while (event := await asyncio.shield(self._next)) is not None:
            yield event


def about(active: ActiveRun, settings: Settings) -> dict[str, Any]:
    """Return the budget, the active policy and its budget, and the policies to choose from, JSON-able.

    `full_cost`: what shares of the budget refer to. `warning`: why the guarantees may not hold, found by
    `exeunt evaluate`.
    """
    loaded = active.loaded
    cost = loaded.policies[active.policy].cost
    policies = [
        {
            "name": name,
            "budget": policy.budget,
            "expected_cost": policy.expected_cost,
            "accuracy": loaded.accuracy[name],
        }
        for name, policy in loaded.policies.items()
    ]
    return {
        "model": settings.model_name,
        "budget": active.limit,
        "budget_active": loaded.policies[active.policy].budget,
        "unit": cost.unit,
        "full_cost": cost.reference,
        "policy": active.policy,
        "policies": policies,
        "slo_ms": None if settings.slo_s is None else 1e3 * settings.slo_s,
        "slo_quantile": settings.slo_quantile,
        "tiers": dict(settings.tiers),
        "workers": settings.workers,
        "exit_names": loaded.exit_names,
        "warning": loaded.warning,
    }


def snapshot(active: ActiveRun, recent: Recent) -> dict[str, Any]:
    """Return what happened in the last ten seconds, and what is active, JSON-able; None for what is unknown.

    `latency_ms`: of requests, from their last byte. `mean_cost`: per row, in `unit`, as are `budget`, the one that was
    set, and `budget_active`, that of the active policy. `exits_now`, `exits_plan`: shares per exit of the run, as
    `exit_names`. `policy`: the active one; `policy_without_load`; `policies`: names of all. `workers`: that answer.
    `estimated_accuracy`: of the rows answered, from the traces on fit, less what rows lost that were degraded or
    expired; `accuracy_without_load`: under the policies that rows named, or else under `policy_without_load`.
    `drift`: by policy, what an alarm says that inputs have drifted; `drift_evidence`: an alarm comes at 1.
    `recalibrated`: by policy, the receipt of its calibration after a drift.
    """
    loaded = active.loaded
    counts, elapsed = recent.counts, recent.elapsed
    rows = counts.answered.total()
    # A worker that loads the run again may have a policy that this one lacks.
    name = recent.policy if recent.policy in loaded.policies else active.policy
    policy = loaded.policies[name]
    exits_plan = [0.0] * len(loaded.exit_names)
    for place, rate in zip(loaded.places(name), policy.rates.tolist(), strict=True):
        exits_plan[place] += rate
    return {
        "t": time.time(),
        "workers": recent.workers,
        "requests_per_s": counts.latencies.total() / elapsed,
        "rows_per_s": rows / elapsed,
        "latency_ms": counts.latency_ms(),
        "mean_cost": counts.cost / rows if rows else None,
        "budget": active.limit,
        "budget_active": policy.budget,
        "unit": loaded.unit,
        "exit_names": loaded.exit_names,
        "exits_now": _exits_now(active, counts),
        "exits_plan": exits_plan,
        "policy": name,
        "policy_without_load": active.policy_without_load,
        "policies": list(loaded.policies),
        "estimated_accuracy": _accuracy_now(active, counts),
        "accuracy_without_load": _accuracy_without_load(active, counts),
        "rows_waiting": recent.waiting,
        "drift": recent.drift,
        "drift_evidence": recent.evidence,
        "recalibrated": recent.recalibrated,
        **{f"{problem}_per_s": counts.problems[problem] / elapsed for problem in _PROBLEMS},
    }


def _exits_now(active: ActiveRun, counts: Counts) -> list[float] | None:
    shares = np.zeros(len(active.loaded.exit_names))
    for (_, exit_), count in counts.exits.items():
        if exit_ < len(shares):  # else a previous run answered it, which had more exits
            shares[exit_] += count
    return (shares / shares.sum()).tolist() if shares.sum() else None


def _accuracy_without_load(active: ActiveRun, counts: Counts) -> float | None:
    best = active.loaded.accuracy[active.policy_without_load]
    others = counts.answered.total() - counts.own_answered.total()
    right, known = _right(active, counts.own_answered)
    if best is None or not (known or others):
        return best
    return (right + best * others) / (known + others)


def _accuracy_now(active: ActiveRun, counts: Counts) -> float | None:
    right, known = _right(active, counts.answered)
    if not known:
        return None
    lost = sum(active.loaded.lost_at.get(place, 0.0) * rows for place, rows in counts.ended_early.items())
    return (right - lost) / known


def _right(active: ActiveRun, rows: Mapping[str, int]) -> tuple[float, int]:
    """Return the estimated number of right answers among the rows, by policy, and the rows with an estimate."""
    accuracy = active.loaded.accuracy
    known = [(share, count) for name, count in rows.items() if (share := accuracy.get(name)) is not None]
    return sum(share * count for share, count in known), sum(count for _, count in known)
